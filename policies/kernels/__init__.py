"""Numba kernels: columns in, columns out, no objects. Each compiles at import, into a per-user cache (`cache`)."""
