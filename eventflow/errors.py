"""Every error eventflow raises, in one tree.

::

    EventFlowError
    ├── ConfigurationError (ValueError)      wrong use, found before anything runs
    │   ├── EventDefinitionError (TypeError)  a class that can't be an event
    │   ├── InvalidTopicError                 a topic or pattern outside the grammar
    │   ├── InvalidHandlerError (TypeError)   not a callable of one event
    │   ├── InvalidMemberError (TypeError)    not an async context manager
    │   └── InvalidOptionError (TypeError)    an unknown option, or a value out of range
    ├── EventError (ValueError)
    │   ├── EventEncodeError                  an event that has no JSON form
    │   └── EventDecodeError                  bytes that are not the event they should be
    ├── BusError
    │   ├── BusNotEnteredError (RuntimeError) used before ``async with``
    │   ├── BusClosedError (RuntimeError)     used during or after the stop
    │   ├── WrongLoopError (RuntimeError)     used from another event loop, thread or process
    │   ├── BufferFullError                   a subscriber had no room
    │   ├── DeadlockError (RuntimeError)      a call that could only wait for itself
    │   │   └── PublishDeadlockError          a publish that would close a cycle of full buffers
    │   └── ResourceError (RuntimeError)      a subscription's resource could not be opened
    ├── ServiceError (RuntimeError)           a service used where, or when, it can't be
    │   └── MemberEndedError                  a member ended although nobody asked it to
    ├── PublishTimeoutError (TimeoutError)    a publish did not end in time; perhaps done
    ├── HandlerTimeoutError (TimeoutError)    an attempt ran longer than its timeout
    ├── NotInHandlerError (LookupError)       ``current()`` outside a handler
    ├── PublisherNotFoundError (LookupError)  a web app's route without the lifespan
    ├── Permanent                             raise it in a handler: do not retry
    └── RetryAfter                            raise it in a handler: retry, this much later

Facts are attributes; the text is for people. ``retriable`` says whether the same call can
succeed later without a change of code or configuration. Every error survives ``pickle``
and ``copy``. `Permanent` and `RetryAfter` are the two that control the flow; they carry no
``Error`` suffix for that reason.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = (
    "BufferFullError",
    "BusClosedError",
    "BusError",
    "BusNotEnteredError",
    "ConfigurationError",
    "DeadlockError",
    "EventDecodeError",
    "EventDefinitionError",
    "EventEncodeError",
    "EventError",
    "EventFlowError",
    "HandlerTimeoutError",
    "InvalidHandlerError",
    "InvalidMemberError",
    "InvalidOptionError",
    "InvalidTopicError",
    "MemberEndedError",
    "NotInHandlerError",
    "Permanent",
    "PublishDeadlockError",
    "PublishTimeoutError",
    "PublisherNotFoundError",
    "ResourceError",
    "RetryAfter",
    "ServiceError",
    "WrongLoopError",
)


class EventFlowError(Exception):
    """Root of every error that eventflow raises.

    Attributes:
        retriable: Whether the same call can succeed later without a change of code or
            configuration.
    """

    # Facts are keyword arguments with defaults in every subclass, so that
    # BaseException.__reduce__, which calls the class with `args` and then restores
    # `__dict__`, is enough for pickle and copy.
    retriable: ClassVar[bool] = False


class ConfigurationError(EventFlowError, ValueError):
    """Something was declared in a way that can't work; found before anything runs."""


class EventDefinitionError(ConfigurationError, TypeError):
    """A class can't be an event: a field could change, or has no exact JSON form.

    Attributes:
        event: Name of the class.
        path: Path of the field, such as ``shipping.lines[].sku``; empty for the class itself.
    """

    def __init__(self, *args: object, event: str = "", path: str = "") -> None:
        super().__init__(*args)
        self.event = event
        self.path = path


class InvalidTopicError(ConfigurationError):
    """A topic or a pattern does not follow the grammar.

    Attributes:
        topic: The text that was refused.
    """

    def __init__(self, *args: object, topic: str = "") -> None:
        super().__init__(*args)
        self.topic = topic


class InvalidHandlerError(ConfigurationError, TypeError):
    """A handler can't be called with one event (and its resource, where it has one)."""


class InvalidMemberError(ConfigurationError, TypeError):
    """A member of a service is not an async context manager.

    Attributes:
        position: Which argument it is, counted from 1.
    """

    def __init__(self, *args: object, position: int = 0) -> None:
        super().__init__(*args)
        self.position = position


class InvalidOptionError(ConfigurationError, TypeError):
    """An option is unknown, out of range, or has no meaning together with another.

    Attributes:
        option: Name of the option.
    """

    def __init__(self, *args: object, option: str = "") -> None:
        super().__init__(*args)
        self.option = option


class EventError(EventFlowError, ValueError):
    """An event and its bytes don't fit together."""


class EventEncodeError(EventError):
    """An event has no JSON form.

    Attributes:
        topic: Topic of the event.
        path: Path of the field.
    """

    def __init__(self, *args: object, topic: str = "", path: str = "") -> None:
        super().__init__(*args)
        self.topic = topic
        self.path = path


class EventDecodeError(EventError):
    """Bytes are not the event they should be. Never holds the whole payload.

    Attributes:
        topic: Topic of the expected event.
        message_id: Id of the message, where it is known.
        path: Path of the first field that did not fit; empty for the document itself.
        expected: What was expected there.
        found: What came, cut to a bounded length.
        offset: Byte offset of a syntax error, else ``None``.
    """

    def __init__(
        self,
        *args: object,
        topic: str = "",
        message_id: str | None = None,
        path: str = "",
        expected: str = "",
        found: str = "",
        offset: int | None = None,
    ) -> None:
        super().__init__(*args)
        self.topic = topic
        self.message_id = message_id
        self.path = path
        self.expected = expected
        self.found = found
        self.offset = offset


class BusError(EventFlowError):
    """The in-process bus could not do what it was asked."""


class BusNotEnteredError(BusError, RuntimeError):
    """The bus was used before ``async with bus:`` was entered."""


class BusClosedError(BusError, RuntimeError):
    """The bus (or the subscription) is stopping, or was left; nothing is taken in any more."""


class WrongLoopError(BusError, RuntimeError):
    """The bus was used from another event loop, thread or process than it was entered in."""


class BufferFullError(BusError):
    """A subscriber had no room for an event, and its policy does not drop.

    Who it was is in the log, not here: a publisher does not know its subscribers. The text has
    its capacity and its policy, for whoever reads it.

    Attributes:
        topic: Topic of the event.
        event_id: Id of the event.
        waited_s: Seconds the publisher waited for room; 0 where the policy is to refuse at once.
    """

    retriable = True

    def __init__(
        self, *args: object, topic: str = "", event_id: str = "", waited_s: float = 0.0
    ) -> None:
        super().__init__(*args)
        self.topic = topic
        self.event_id = event_id
        self.waited_s = waited_s


class DeadlockError(BusError, RuntimeError):
    """A call that could only wait for itself, such as closing a bus from one of its handlers."""


class PublishDeadlockError(DeadlockError):
    """A publish that would close a cycle of full ``BLOCK`` buffers.

    The subscribers with room have their copy; those in the cycle counted a rejection.

    Attributes:
        topic: Topic of the event.
        event_id: Id of the event.
    """

    def __init__(self, *args: object, topic: str = "", event_id: str = "") -> None:
        super().__init__(*args)
        self.topic = topic
        self.event_id = event_id


class ResourceError(BusError, RuntimeError):
    """A subscription's resource could not be opened; its own error is the ``__cause__``.

    Attributes:
        subscription: Name of the subscription.
    """

    def __init__(self, *args: object, subscription: str = "") -> None:
        super().__init__(*args)
        self.subscription = subscription


class ServiceError(EventFlowError, RuntimeError):
    """A service was entered twice, or used outside its ``async with`` or its event loop."""


class MemberEndedError(ServiceError):
    """A member of a service ended by itself, without an error, although nobody asked it to.

    Attributes:
        member: Name of the member.
    """

    def __init__(self, *args: object, member: str = "") -> None:
        super().__init__(*args)
        self.member = member


class PublishTimeoutError(EventFlowError, TimeoutError):
    """A publish did not end in time; it may have taken effect, or may still do.

    Attributes:
        topic: Topic of the event.
        event_id: Id of the event.
        waited_s: Seconds waited.
    """

    retriable = True

    def __init__(
        self, *args: object, topic: str = "", event_id: str = "", waited_s: float = 0.0
    ) -> None:
        super().__init__(*args)
        self.topic = topic
        self.event_id = event_id
        self.waited_s = waited_s


class HandlerTimeoutError(EventFlowError, TimeoutError):
    """An attempt at handling an event ran longer than the subscription's timeout.

    Attributes:
        subscription: Name of the subscription.
        timeout_s: The timeout, in seconds.
    """

    retriable = True

    def __init__(self, *args: object, subscription: str = "", timeout_s: float = 0.0) -> None:
        super().__init__(*args)
        self.subscription = subscription
        self.timeout_s = timeout_s


class NotInHandlerError(EventFlowError, LookupError):
    """``current()`` was called where no event is being handled."""


class PublisherNotFoundError(EventFlowError, LookupError):
    """A route asked for the app's publisher, and no lifespan of eventflow has put one there."""


class Permanent(EventFlowError):  # noqa: N818 - control flow, see the module's docstring
    """Raised by a handler: this event will never succeed, so do not retry it."""


class RetryAfter(EventFlowError):  # noqa: N818 - control flow, see the module's docstring
    """Raised by a handler: try again after this many seconds instead of the policy's delay.

    It counts against the policy's attempts like any other failure.

    Attributes:
        seconds: Seconds to wait, 0 or more.
    """

    retriable = True

    def __init__(self, seconds: float = 0.0, *args: object) -> None:
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"RetryAfter takes seconds, 0 or more and finite, not {seconds!r}")
        super().__init__(seconds, *args)
        self.seconds = seconds
