"""Benchmarks: each generates its model, measures whole processes, and writes docs/benchmarks."""
