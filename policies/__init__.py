"""Policies: what a placement is and how one is chosen. Pure: no I/O, no clock, no logging."""
