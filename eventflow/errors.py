"""Every error eventflow raises, in one tree.

::

    EventFlowError
    ├── ConfigurationError (ValueError)      wrong use, found before anything runs
    │   ├── EventDefinitionError (TypeError)  a class that can't be an event
    │   ├── InvalidTopicError                 a topic or pattern outside the grammar
    │   ├── InvalidHandlerError (TypeError)   not a callable of one event
    │   ├── InvalidMemberError (TypeError)    not an async context manager
    │   ├── InvalidOptionError (TypeError)    an unknown option, or a value out of range
    │   ├── InvalidMessageError (TypeError)   a message that no broker could carry
    │   ├── InvalidDsnError                   an address of a broker that can't be read
    │   │   └── UnknownSchemeError (LookupError)  … whose scheme no backend here answers to
    │   └── UnsupportedFeatureError           more asked of a backend than it declares
    ├── EventError (ValueError)
    │   ├── EventEncodeError                  an event that has no JSON form
    │   ├── EventDecodeError                  bytes that are not the event they should be
    │   └── UnknownEventError (LookupError)   a name that no class bound here goes by
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
    ├── PublishError                          a publish did not, or not wholly, take effect
    │   ├── PublishTimeoutError (TimeoutError) … it did not end in time; perhaps done
    │   ├── MessageTooLargeError (ValueError) … the message is larger than the broker takes
    │   └── OutsideTransactionError (RuntimeError)  … it belongs to no message that is in hand
    ├── BrokerError                           a broker could not do what it was asked
    │   ├── BrokerConnectionError (ConnectionError)  it can't be reached, or went away
    │   ├── BrokerAuthenticationError (PermissionError)  it and we do not trust each other
    │   ├── BrokerClosedError (RuntimeError)  used before it was entered, or after it was left
    │   ├── TopicNotFoundError (LookupError)  a topic that nobody has created
    │   ├── TopologyError                     a queue or an exchange is not as it was declared
    │   └── SettleError                       an ack or nack that the broker did not get
    ├── RouterError (RuntimeError)            a router used where, or when, it can't be
    │   └── TooManyDeliveriesError            a message came too often
    ├── HandlerTimeoutError (TimeoutError)    an attempt ran longer than its timeout
    ├── ChaosError                            a failure that a test asked for
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
    "BrokerAuthenticationError",
    "BrokerClosedError",
    "BrokerConnectionError",
    "BrokerError",
    "BufferFullError",
    "BusClosedError",
    "BusError",
    "BusNotEnteredError",
    "ChaosError",
    "ConfigurationError",
    "DeadlockError",
    "EventDecodeError",
    "EventDefinitionError",
    "EventEncodeError",
    "EventError",
    "EventFlowError",
    "HandlerTimeoutError",
    "InvalidDsnError",
    "InvalidHandlerError",
    "InvalidMemberError",
    "InvalidMessageError",
    "InvalidOptionError",
    "InvalidTopicError",
    "MemberEndedError",
    "MessageTooLargeError",
    "NotInHandlerError",
    "OutsideTransactionError",
    "Permanent",
    "PublishDeadlockError",
    "PublishError",
    "PublishTimeoutError",
    "PublisherNotFoundError",
    "ResourceError",
    "RetryAfter",
    "RouterError",
    "ServiceError",
    "SettleError",
    "TooManyDeliveriesError",
    "TopicNotFoundError",
    "TopologyError",
    "UnknownEventError",
    "UnknownSchemeError",
    "UnsupportedFeatureError",
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


class InvalidMessageError(ConfigurationError, TypeError):
    """A message is not made of bytes, and texts to texts."""


class InvalidDsnError(ConfigurationError):
    """An address of a broker can't be read. The text never has the address itself.

    Attributes:
        scheme: What stands before ``://``, as far as that could be found.
    """

    def __init__(self, *args: object, scheme: str = "") -> None:
        super().__init__(*args)
        self.scheme = scheme


class UnknownSchemeError(InvalidDsnError, LookupError):
    """No backend that is installed answers to the scheme of an address."""


class UnsupportedFeatureError(ConfigurationError):
    """More was asked of a backend than its `Features` declare.

    Attributes:
        feature: Name of the feature, as in `eventflow.messaging.Features`.
        backend: Name of the backend.
    """

    def __init__(self, *args: object, feature: str = "", backend: str = "") -> None:
        super().__init__(*args)
        self.feature = feature
        self.backend = backend


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


class UnknownEventError(EventError, LookupError):
    """A message's event name stands for no class that is bound to its reader.

    Attributes:
        topic: Topic the message came from.
        message_id: Id of the message.
        name: The name, cut to a bounded length; empty where there was none.
    """

    def __init__(
        self, *args: object, topic: str = "", message_id: str = "", name: str = ""
    ) -> None:
        super().__init__(*args)
        self.topic = topic
        self.message_id = message_id
        self.name = name


class BusError(EventFlowError):
    """The in-process bus could not do what it was asked."""


class BusNotEnteredError(BusError, RuntimeError):
    """The bus was used before ``async with bus:`` was entered."""

    retriable = True


class BusClosedError(BusError, RuntimeError):
    """The bus (or the subscription) is stopping, or was left; nothing is taken in any more."""

    retriable = True


class WrongLoopError(BusError, RuntimeError):
    """A bus or a broker was used from another event loop, thread or process than entered it."""


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

    retriable = True

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


class PublishError(EventFlowError):
    """A publish did not take effect, or not for all of its messages.

    Every message of the call is in exactly one of the three groups.

    Attributes:
        topic: Topic published to.
        stored: Ids of the messages that are stored for sure.
        not_stored: Ids of those that are not, for sure.
        unknown: Ids of those that may be; publishing them again may store them twice.
    """

    retriable = True

    def __init__(
        self,
        *args: object,
        topic: str = "",
        stored: tuple[str, ...] = (),
        not_stored: tuple[str, ...] = (),
        unknown: tuple[str, ...] = (),
    ) -> None:
        super().__init__(*args)
        self.topic = topic
        self.stored = stored
        self.not_stored = not_stored
        self.unknown = unknown


class PublishTimeoutError(PublishError, TimeoutError):
    """A publish did not end in time; it may have taken effect, or may still do.

    Attributes:
        event_id: Id of the event, where it is one.
        waited_s: Seconds waited.
    """

    def __init__(
        self,
        *args: object,
        topic: str = "",
        event_id: str = "",
        waited_s: float = 0.0,
        stored: tuple[str, ...] = (),
        not_stored: tuple[str, ...] = (),
        unknown: tuple[str, ...] = (),
    ) -> None:
        super().__init__(*args, topic=topic, stored=stored, not_stored=not_stored, unknown=unknown)
        self.event_id = event_id
        self.waited_s = waited_s


class MessageTooLargeError(PublishError, ValueError):
    """A message is larger than the broker takes; found before anything was sent.

    Attributes:
        message_id: Id of the message.
        size: Bytes of its payload.
        limit: Most bytes that the broker takes.
    """

    retriable = False

    def __init__(
        self,
        *args: object,
        topic: str = "",
        message_id: str = "",
        size: int = 0,
        limit: int = 0,
        not_stored: tuple[str, ...] = (),
    ) -> None:
        super().__init__(*args, topic=topic, not_stored=not_stored)
        self.message_id = message_id
        self.size = size
        self.limit = limit


class OutsideTransactionError(PublishError, RuntimeError):
    """A publish that would be stored with the end of a message, where none is being handled.

    Or its handling is over. What is to be stored at once goes through ``broker.publisher()``.
    """

    retriable = False


class BrokerError(EventFlowError):
    """A broker could not do what it was asked."""


class BrokerConnectionError(BrokerError, ConnectionError):
    """A broker can't be reached, or went away."""

    retriable = True


class BrokerAuthenticationError(BrokerError, PermissionError):
    """A broker refused our credentials or certificate, or we do not trust its own."""


class BrokerClosedError(BrokerError, RuntimeError):
    """A broker was used before it was entered, or after it was left."""

    retriable = True


class TopicNotFoundError(BrokerError, LookupError):
    """A topic does not exist, on a broker where somebody has to create it.

    Attributes:
        topic: Its name.
    """

    def __init__(self, *args: object, topic: str = "") -> None:
        super().__init__(*args)
        self.topic = topic


class TopologyError(BrokerError):
    """An exchange, a queue or a binding is not there as it was declared, or can't be."""


class SettleError(BrokerError):
    """The broker did not get an ack or a nack, or does not know the delivery any more.

    The message comes again: what was done for it may be done twice, nothing is lost.

    Attributes:
        message_id: Id of the message.
    """

    retriable = True

    def __init__(self, *args: object, message_id: str = "") -> None:
        super().__init__(*args)
        self.message_id = message_id


class RouterError(EventFlowError, RuntimeError):
    """A router was used where, or when, it can't be."""


class TooManyDeliveriesError(RouterError):
    """A message was delivered more often than ``max_deliveries``: perhaps it crashes its reader.

    Attributes:
        message_id: Id of the message.
        deliveries: How often it came.
    """

    def __init__(self, *args: object, message_id: str = "", deliveries: int = 0) -> None:
        super().__init__(*args)
        self.message_id = message_id
        self.deliveries = deliveries


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


class ChaosError(EventFlowError):
    """An attempt was made to fail, by `eventflow.messaging.middleware.Chaos`."""

    retriable = True


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
