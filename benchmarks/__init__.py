"""Benchmarks: speed and memory are measured here, never in tests. Each prints a table and writes JSON."""
