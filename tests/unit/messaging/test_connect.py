"""`connect` and `Dsn`: backends by scheme, and no password anywhere."""

from __future__ import annotations

import copy
import logging
import pickle
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import eventflow
from eventflow.brokers.memory import MemoryBroker
from eventflow.errors import (
    ConfigurationError,
    EventFlowError,
    InvalidDsnError,
    InvalidOptionError,
    UnknownSchemeError,
)
from eventflow.messaging import Dsn, Message, connect

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = str(Path(eventflow.__file__).parent)


# Reading

MANY = (("a", 9092), ("b", None), ("[::1]", 1))
QUERY = {"a": "1", "b": " c", "d": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory://", Dsn("memory", None, None, (), "", {})),
        ("MEMORY://", Dsn("memory", None, None, (), "", {})),
        ("sqlite:///events.db", Dsn("sqlite", None, None, (), "/events.db", {})),
        ("kafka://a:9092,b,[::1]:1", Dsn("kafka", None, None, MANY, "", {})),
        ("nats://token@h", Dsn("nats", "token", None, (("h", None),), "", {})),
        ("redis://:secret@h/0", Dsn("redis", "", "secret", (("h", None),), "/0", {})),
        ("amqp://u:@h/%2f", Dsn("amqp", "u", "", (("h", None),), "//", {})),
        ("amqp://u:p%40ss%3Aw%2Frd%25@h", Dsn("amqp", "u", "p@ss:w/rd%", (("h", None),), "", {})),
        ("amqp://u:a:b@h", Dsn("amqp", "u", "a:b", (("h", None),), "", {})),
        ("x+y.1-z://?a=1&b=%20c&d=", Dsn("x+y.1-z", None, None, (), "", QUERY)),
        ("kafka://%C3%BC:%E2%82%AC@h", Dsn("kafka", "ü", "€", (("h", None),), "", {})),
        ("kafka://h/?a=b/c?d", Dsn("kafka", None, None, (("h", None),), "/", {"a": "b/c?d"})),
    ],
)  # fmt: skip
def test_an_address_is_read(text: str, expected: Dsn) -> None:
    """Each part where it belongs, decoded."""
    assert Dsn.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "begins with its scheme"),
        ("host:9092", "begins with its scheme"),
        ("kafka:/h", "begins with its scheme"),
        ("://h", "begins with its scheme"),
        ("1kafka://h", "begins with its scheme"),
        ("ka fka://h", "begins with its scheme"),
        (f"{'k' * 25}://h", "begins with its scheme"),
        ("kafka://u:p@ss@h", "write it as %40"),
        ("kafka://u:1/2@h", "write it as %40"),
        ("kafka://h?password=p@ss", "write it as %40"),
        ("kafka://u:100%@h", "write it as %25"),
        ("kafka://u:%zz@h", "write it as %25"),
        ("kafka://u:%ff@h", "no UTF-8"),
        ("kafka://h?a=%ff", "its query is not"),
        ("kafka://h?a", "its query is not"),
        ("kafka://h?a=1&a=2", "its query is not"),
        ("kafka://h?=1", "its query is not"),
        ("kafka://h:0", "its hosts are not"),
        ("kafka://h:99999", "its hosts are not"),
        ("kafka://h:port", "its hosts are not"),
        ("kafka://a,,b", "its hosts are not"),
        ("kafka://[::1", "its hosts are not"),
        ("kafka://h h", "percent-encode"),
        ("kafka://h#f", "percent-encode"),
        ("kafka://h\n", "percent-encode"),
        ("kafka://ü", "percent-encode"),
        ("kafka://h/a%0ab", "control character"),
        ("kafka://" + "h" * 5_000, "at most 4,096"),
        (b"memory://", "is a text, not bytes"),
        (None, "is a text, not NoneType"),
    ],
)
def test_what_can_t_be_read_is_refused(text: Any, said: str) -> None:
    """With the reason, and without the address."""
    with pytest.raises(InvalidDsnError, match=said) as caught:
        Dsn.parse(text)
    assert caught.value.scheme in ("", "kafka")
    assert caught.value.__context__ is None


def test_an_address_is_a_value() -> None:
    """Frozen, hashable, and the same after copy and pickle."""
    dsn = Dsn.parse("kafka://u:p@h:1,g/x?a=b")
    assert dsn == Dsn.parse("kafka://u:p@h:1,g/x?a=b") != Dsn.parse("kafka://u:q@h:1,g/x?a=b")
    for again in (copy.copy(dsn), copy.deepcopy(dsn), pickle.loads(pickle.dumps(dsn))):
        assert again == dsn
        assert hash(again) == hash(dsn)
    with pytest.raises(AttributeError):
        dsn.password = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        dsn.query["a"] = "c"  # type: ignore[index]
    assert str(dsn) == "kafka://***@h:1,g/x?***"
    assert repr(dsn) == "<Dsn kafka://***@h:1,g/x?***>"
    assert str(Dsn.parse("sqlite:///events.db")) == "sqlite:///events.db"


# Finding


async def test_memory_is_found_by_its_entry_point() -> None:
    """Ours is registered as anybody's would be."""
    broker = connect("memory://orders?capacity=2&publish_timeout=0.5", max_payload_bytes=10)
    assert isinstance(broker, MemoryBroker)
    assert repr(broker) == "<MemoryBroker 'orders', closed>"
    assert broker.features.max_payload_bytes == 10
    async with broker, connect(Dsn.parse("memory://")):
        await broker.publisher().publish("orders", Message(b"1"), Message(b"2"))


@pytest.mark.parametrize(
    ("text", "options", "error", "said"),
    [
        ("memory://a,b", {}, InvalidDsnError, "at most a name"),
        ("memory://a:1", {}, InvalidDsnError, "at most a name"),
        ("memory://a/b", {}, InvalidDsnError, "at most a name"),
        ("memory://u:p@a", {}, InvalidDsnError, "neither user nor password"),
        ("memory://?size=1", {}, InvalidDsnError, "numbers, such as capacity=1000"),
        ("memory://?capacity=many", {}, InvalidDsnError, "numbers, such as capacity=1000"),
        ("memory://?capacity=1.5", {}, InvalidDsnError, "numbers, such as capacity=1000"),
        ("memory://?capacity=0", {}, InvalidOptionError, "1 or more"),
        ("memory://", {"size": 1}, InvalidOptionError, "no option 'size'"),
    ],
)
def test_what_memory_does_not_take(
    text: str, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    """Nothing of an address is passed over in silence."""
    with pytest.raises(error, match=said):
        connect(text, **options)


@pytest.mark.parametrize(
    ("scheme", "extra"),
    [
        ("kafka", "kafka"),
        ("amqp", "rabbitmq"),
        ("amqps", "rabbitmq"),
        ("nats", "nats"),
        ("redis", "redis"),
        ("rediss", "redis"),
        ("postgresql", "postgres"),
        ("postgres", "postgres"),
        ("sqlite", "sqlite"),
    ],
)
def test_a_scheme_that_is_not_installed_names_its_extra(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the line can be pasted."""

    def nothing(**_: str) -> tuple[()]:
        return ()

    monkeypatch.setattr(sys.modules["eventflow.messaging._connect"], "entry_points", nothing)
    with pytest.raises(UnknownSchemeError) as caught:
        connect(f"{scheme}://h")
    assert str(caught.value).endswith(f'pip install "eventflow-asyncio[{extra}]"')
    assert caught.value.scheme == scheme
    assert isinstance(caught.value, LookupError)


def test_a_scheme_that_nobody_knows_lists_those_there_are() -> None:
    """The installed ones and ours."""
    with pytest.raises(UnknownSchemeError, match=r"kafak://\. Known are: .*kafka://, memory://"):
        connect("kafak://h")


def distribution(folder: Path, name: str, code: str, scheme: str = "toy") -> None:
    """What an installer leaves behind, as far as entry points need it."""
    folder.joinpath(f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    info.joinpath("entry_points.txt").write_text(
        f"[eventflow.brokers]\n{scheme} = {name}:from_dsn\n"
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("toy"):
            del sys.modules[name]


TOY = """
from eventflow.brokers.memory import MemoryBroker

def from_dsn(dsn, *, shouts=False):
    return MemoryBroker(dsn.path.strip("/").upper() if shouts else dsn.path.strip("/"))
"""


async def test_a_third_party_brings_a_backend(folder: Path) -> None:
    """A distribution with an entry point is all it takes."""
    distribution(folder, "toy_backend", TOY)
    async with connect("toy://h/orders", shouts=True) as broker:
        assert repr(broker) == "<MemoryBroker 'ORDERS', open>"
    with pytest.raises(UnknownSchemeError, match=r"sqlite://, toy://$"):
        connect("nobody://h")


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("def from_dsn(dsn): return 'broker'", ConfigurationError, "returned str, not a Broker"),
        ("import no_such_driver", ModuleNotFoundError, "no_such_driver"),
    ],
)
def test_a_backend_that_is_none(folder: Path, code: str, error: type[Exception], said: str) -> None:
    """What it returns is checked; what breaks in it shows its own traceback."""
    distribution(folder, "toy_broken", code)
    with pytest.raises(error, match=said):
        connect("toy://h")


def test_a_backend_whose_driver_is_not_there_names_its_extra(folder: Path) -> None:
    """The backend is ours and is there: what to install is what it lacks."""
    distribution(folder, "toy_nats", "import no_such_driver", scheme="nats")
    with pytest.raises(UnknownSchemeError) as caught:
        connect("nats://h")
    assert str(caught.value).endswith('pip install "eventflow-asyncio[nats]"')
    assert caught.value.__suppress_context__, "what is missing is said; not by which import"


def test_two_backends_for_one_scheme(folder: Path) -> None:
    """Which one it would be is not left to chance."""
    for name in ("toy_one", "toy_two"):
        distribution(folder, name, TOY)
    with pytest.raises(ConfigurationError, match="toy_one:from_dsn, toy_two:from_dsn"):
        connect("toy://h")


# No password anywhere

KEY = "cAn4ry"
ENCODED = ("scheme://u:{e}@h", "scheme://:{e}@h:1,g/x", "scheme://{e}@h", "scheme://h?password={e}",
           "scheme://u:{e}@h/x?sasl.password={e}&token={e}")  # fmt: skip
MALFORMED = (
    "{p}", "u:{p}@h", "//u:{p}@h", "://u:{p}@h", "scheme:u:{p}@h", "scheme:/u:{p}@h",
    "scheme//u:{p}@h", "scheme ://u:{p}@h", "1scheme://u:{p}@h", "scheme://u:{p}@h:port",
    "scheme://u:{p}@h:99999", "scheme://u:{p}@[::1", "scheme://u:{p}@h h", "scheme://u:{p}@h,,",
    "scheme://u:{p}@h?x", "scheme://u:{p}@h?{p}", "scheme://u:{p}@h#{p}", "scheme://u:{p}@h@g",
    "scheme://u:{p}", "scheme://u:1{p}@h", "scheme://u:{p}%@h", "scheme://u:%ff{p}@h",
    "scheme://u@h:{p}", "scheme://h?password={p}&password={p}", "scheme://h?password={p}@",
    "scheme://u:{p}@h/%00", "scheme://u:{p}@ü", "\nscheme://u:{p}@h", "scheme://u:{p}@h\x00",
    "scheme://u:{p}@h?a=%zz",
)  # fmt: skip
SCHEMES = ("memory", "kafka", "amqp", "nats", "redis", "postgresql", "sqlite", "nobody")

# What it is made of includes whatever means something in an address, or in an encoding.
passwords = st.one_of(
    st.sampled_from(("p@ss:w/rd%", "%", "@", ":", "/", "?", "#", "&", "=", "%40", "://", "a b")),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
).map(lambda text: f"{KEY}{text}{KEY}")


def told(error: BaseException) -> Iterator[str]:
    """All that can be seen of an error, and of those behind it."""
    seen: list[BaseException | None] = [error]
    for each in seen:
        assert each is not None
        yield from (str(each), repr(each), repr(each.args), repr(vars(each)))
        for behind in (each.__cause__, each.__context__):
            if behind is not None and behind not in seen:
                seen.append(behind)
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    for frame in shown.stack:
        if frame.filename.startswith(PACKAGE):
            yield repr(frame.locals)
    yield "".join(traceback.format_exception_only(error))


def assert_hidden(password: str, texts: Iterator[str] | list[str]) -> None:
    forms = {KEY, password, quote(password), quote(password, safe=""), quote_plus(password)}
    for text in texts:
        assert not [form for form in forms if form in text], text


@pytest.mark.fault("SEC-01")
@settings(max_examples=100, deadline=None)
@given(
    password=passwords,
    template=st.sampled_from(ENCODED + MALFORMED),
    scheme=st.sampled_from(SCHEMES),
    is_encoded=st.booleans(),
)
def test_no_password_is_shown(password: str, template: str, scheme: str, is_encoded: bool) -> None:
    """Neither plain nor encoded: in repr, str, errors, what they carry, locals, logs."""
    given = quote(password, safe="") if is_encoded or "{e}" in template else password
    text = template.replace("scheme", scheme).format(p=given, e=given)
    # Those would be addresses like any other, with a host where the password, or its end, stands:
    # u:some@thing is a user, a password and a host.
    assume(template != "{p}" or "://" not in given)
    assume(template != "scheme://u:{p}" or "@" not in given)
    lines: list[str] = []
    handler = logging.Handler(logging.DEBUG)
    handler.emit = lambda record: lines.append(f"{record.getMessage()} {vars(record)}")  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        for call in (Dsn.parse, connect):
            thing: Any
            try:
                thing = call(text)
            except EventFlowError as exc:
                assert_hidden(password, told(exc))
                assert_hidden(password, told(pickle.loads(pickle.dumps(exc))))
                continue
            assert_hidden(password, [repr(thing), str(thing), f"{thing}", f"{thing!a}"])
            if "{e}" in template and isinstance(thing, Dsn):
                where = (thing.user, thing.password, *thing.query.values())
                assert password in where, "read, only not shown"
    finally:
        root.removeHandler(handler)
    assert_hidden(password, lines)


@pytest.mark.fault("SEC-01")
@pytest.mark.parametrize("template", [*ENCODED, *MALFORMED])
@pytest.mark.parametrize("is_encoded", [False, True], ids=["plain", "encoded"])
def test_the_canary_is_shown_nowhere(template: str, is_encoded: bool) -> None:
    """``p@ss:w/rd%``, with every backend that can be named."""
    password = f"{KEY}p@ss:w/rd%"
    given = quote(password, safe="") if is_encoded else password
    for scheme in SCHEMES:
        text = template.replace("scheme", scheme).format(p=given, e=given)
        try:
            broker = connect(text)
        except EventFlowError as exc:
            assert_hidden(password, told(exc))
        else:
            assert is_encoded
            assert scheme in ("kafka", "amqp"), "it takes no password"
            assert_hidden(password, [repr(broker), str(broker), repr(vars(broker))])
