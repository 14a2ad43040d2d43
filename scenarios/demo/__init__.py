"""The demo: a real broker, master and agents as processes on loopback, the same ML job under two policies."""
