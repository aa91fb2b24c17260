"""How handlers are run and stopped: shared by the bus and the router."""

__all__ = ()
