"""The offer market: frameworks, the leases they are offered, and the tasks they launch."""
