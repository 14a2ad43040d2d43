"""The production cores replayed in simulated time."""
