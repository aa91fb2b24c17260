"""eventflow inside other frameworks; each module needs its framework, and an extra of its name."""

__all__ = ()
