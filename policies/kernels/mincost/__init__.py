"""Exact min-cost flow on int64: `network` is the interface, each other module one algorithm. See docs/kernels.md."""
