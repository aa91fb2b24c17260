"""Benchmarks: `make bench`. docs/performance.md tells what is measured, and how."""
