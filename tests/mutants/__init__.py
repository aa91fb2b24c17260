"""Planted bugs, to see that the test suite notices each of them: ``python -m tests.mutants``."""
