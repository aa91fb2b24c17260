"""What takes the place of a message that can't be read."""

from __future__ import annotations

from eventflow.messaging.message import Message

__all__ = ("Unreadable",)


class Unreadable(Message):
    """A message whose payload is an error: who reads it gets that."""

    __slots__ = ("error",)
    error: Exception

    @classmethod
    def instead_of(cls, message: Message, error: Exception) -> Unreadable:
        """It takes the place of a message."""
        self = cls.received(
            message.id, b"", message.metadata, key=message.key, headers=message.headers
        )
        assert isinstance(self, cls)
        object.__setattr__(self, "error", error)
        return self

    @property
    def payload(self) -> bytes:
        raise self.error

    def __repr__(self) -> str:
        return f"<Message {self.id!r}, which could not be read>"
