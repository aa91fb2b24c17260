"""Middlewares: what is put around handlers, one idea each."""

from eventflow.messaging.middleware.protocol import CallNext, Middleware

__all__ = ("CallNext", "Middleware")
