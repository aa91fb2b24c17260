"""Backends: each in a package of its own, with the driver it needs as an extra."""

__all__ = ()
