"""Bodies that are not the event they should be."""

from __future__ import annotations

import ast
import os
import pickle
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError, field_validator

import eventflow.events
from eventflow.errors import EventDecodeError
from eventflow.events import Event, Int64String, Part, RawJson
from tests.unit.events.cpu import PROMISED_S, SLACK, cpu_s

STRESS = os.environ.get("EVENTFLOW_STRESS") == "1"
CANARY = "canary-7f3a"


class Line(Part):
    sku: str
    count: int


class Everything(Event, topic="everything"):
    text: str
    number: int
    ratio: float
    price: Decimal
    when: datetime
    ident: UUID
    data: bytes
    big: Int64String
    lines: tuple[Line, ...]
    labels: Mapping[str, str]
    maybe: int | None = None


class Small(Event, topic="small"):
    x: int


class WithRaw(Event, topic="raw"):
    x: int
    raw: RawJson


GOOD = (
    b'{"text":"t","number":1,"ratio":1.5,"price":"1.5","when":"2024-05-01T10:00:00Z",'
    b'"ident":"00000000-0000-0000-0000-000000000005","data":"/w==","big":"5",'
    b'"lines":[{"sku":"a","count":1}],"labels":{"a":"b"},"maybe":null}'
)

BAD: dict[str, bytes] = {
    "deep arrays": b'{"x":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "deep objects": b'{"x":' + b'{"a":' * 10**5 + b"1" + b"}" * 10**5 + b"}",
    "deep and open": b"[" * 10**5,
    "deep where nothing is read": b'{"x":1,"raw":1,"y":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
    "a million digits": b'{"x":' + b"1" * 10**6 + b"}",
    "a million digits elsewhere": b'{"x":1,"raw":1,"y":' + b"1" * 10**6 + b"}",
    "a million digits of exponent": b'{"x":1e' + b"9" * 10**6 + b"}",
    "a million digits of fraction": b'{"x":0.' + b"1" * 10**6 + b"}",
    "a million digits in text": b'{"x":"' + b"1" * 10**6 + b'"}',
    "lone surrogate": b'{"x":"\\ud800"}',
    "lone surrogate as a key": b'{"x":1,"raw":1,"\\ud800":1}',
    "bad UTF-8": b'{"x":"\xff"}',
    "surrogate in UTF-8": b'{"x":1,"raw":1,"y":"\xed\xa0\x80"}',
    "overlong UTF-8": b'{"x":"\xc0\x80"}',
    "UTF-16": '{"x":1}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"x":1,"raw":1}',
    "trailing bytes": b'{"x":1,"raw":1}{"x":1}',
    "trailing zero": b'{"x":1,"raw":1}\x00',
    "trailing comma": b'{"x":1,"raw":1,}',
    "empty": b"",
    "blank": b" \n",
    "null": b"null",
    "a number": b"1",
    "an array": b"[]",
    "NaN": b'{"x":NaN,"raw":1}',
    "NaN elsewhere": b'{"x":1,"raw":1,"y":NaN}',
    "Infinity elsewhere": b'{"x":1,"raw":1,"y":[-Infinity]}',
    "1e999": b'{"x":1e999,"raw":1}',
    "single quotes": b"{'x':1}",
    "comment": b'{"x":1/**/}',
    "duplicate, the last one wrong": b'{"x":1,"raw":1,"x":"a"}',
    "too large": b'{"x":9223372036854775808,"raw":1}',
    "a large array": b'{"x":[' + b"1," * 200_000 + b"1]}",
    "a million lines": b'{"x":1,"raw":1}' + b"\n" * 10**6 + b"x",
    "a million lines, no value": b'{"raw":1,"x":' + b"\n" * 10**6 + b"}",
    "lines of text": b'{"raw":1,"x":[' + b'"abcdefg",\n' * 90_000 + b"]}",
    "NaN behind many texts": b'{"raw":1,"x":1,"y":[' + b'"a",' * 250_000 + b"NaN]}",
    "NaN behind many texts of its name": b'{"raw":1,"x":1,"y":[' + b'"NaN",' * 150_000 + b"NaN]}",
    "NaN behind many numbers": b'{"raw":1,"x":1,"y":[' + b"1," * 500_000 + b"NaN]}",
    "NaN behind escapes": b'{"raw":1,"x":1,"y":["' + b'\\"' * 500_000 + b'",NaN]}',
}


@pytest.mark.fault("INP-02")
@pytest.mark.fault("INP-01")
@pytest.mark.parametrize("cls", [Small, WithRaw])
@pytest.mark.parametrize("name", BAD)
def test_hostile_bodies(cls: type[Event], name: str) -> None:
    """Each is a typed error within the promised time and 10 MiB, and its text is short."""
    body = BAD[name]

    def refused() -> None:
        with pytest.raises(EventDecodeError):
            cls.from_json(body)

    assert cpu_s(refused) < PROMISED_S * SLACK
    tracemalloc.start()
    try:
        with pytest.raises(EventDecodeError) as caught:
            cls.from_json(body, event_id="m-1")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * 2**20
    assert len(str(caught.value)) < 600
    assert caught.value.topic == cls.topic
    assert caught.value.message_id == "m-1"
    assert caught.value.found
    assert len(pickle.dumps(caught.value)) < 4000


@pytest.mark.parametrize(
    ("before", "wrong"),
    [
        (b'{"x":1,"raw":1}', b"x"),
        (b'{"x":1,"raw":1}\n', b"x"),
        (b'{"x":1,"raw":1}\r\n\n', b"x"),
        (b'{\n"x"\n:1,\n"raw":1\n}\n\n', b"x"),
        (b'\n\n{"x"\n\n', b"x:1}"),
        (b'\n{"x":"\xc3\xa9",\n"raw":1,"y":', b"x}"),
        (b'{"x":1,"raw":1,"y":', b"NaN}"),
        (b'{"x":1,"raw":1,"NaN":"\\"NaN",\n"y":[-1,', b"-Infinity]}"),
        (b'{"x":1,"raw":1,"Infinity":[1,\n', b"Infinity]}"),
    ],
)
def test_offset_in_lines(before: bytes, wrong: bytes) -> None:
    """The offset is of the byte that is wrong, on whichever line it is."""
    with pytest.raises(EventDecodeError) as caught:
        Small.from_json(before + wrong)
    assert caught.value.offset == len(before)


@pytest.mark.fault("INP-02")
def test_resident_memory_of_hostile_bodies() -> None:
    """The process itself grows by less than 10 MiB, the parser's own memory included."""
    program = (
        "import resource\n"
        "from eventflow.errors import EventDecodeError\n"
        "from tests.unit.events.test_decoding import BAD, Small, WithRaw\n"
        "for cls in (Small, WithRaw):\n"
        "    try: cls.from_json(b'{')\n"
        "    except EventDecodeError: pass\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for cls in (Small, WithRaw):\n"
        "    for name, body in BAD.items():\n"
        "        try: cls.from_json(body)\n"
        "        except EventDecodeError: continue\n"
        "        raise SystemExit(name)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kibibytes = int(done.stdout) / (1024 if sys.platform == "darwin" else 1)
    assert kibibytes < 10 * 1024


@pytest.mark.parametrize(
    ("body", "path", "found"),
    [
        (GOOD.replace(b'"count":1', b'"count":"1"'), "lines[0].count", "'1'"),
        (GOOD.replace(b'"a":"b"', b'"a":[1,2]'), "labels.a", "an array of 2"),
        (GOOD.replace(b'"number":1,', b""), "number", "nothing"),
        (GOOD.replace(b'"number":1', b'"number":null'), "number", "null"),
        (GOOD.replace(b'"number":1', b'"number":{"a":1}'), "number", "an object of 1"),
        (GOOD.replace(b'"number":1', b'"number":1.5'), "number", "1.5"),
        (GOOD.replace(b'"number":1', b'"number":true'), "number", "true"),
        (
            GOOD.replace(b'"number":1', b'"number":' + b"1" * 1000),
            "number",
            "an integer of 3319 bits",
        ),
        (GOOD.replace(b'"number":1', b'"number":"a\\n\\u001b[31m"'), "number", r"'a\n\x1b[31m'"),
        (
            GOOD.replace(b'"number":1', b'"number":"' + b"x" * 999 + b'"'),
            "number",
            f"'{'x' * 80}…'",
        ),
        (b"[1]", "", "an array of 1"),
    ],
)
def test_path_and_what_came(body: bytes, path: str, found: str) -> None:
    """The error says where, what was expected and what came, cut and on one line."""
    with pytest.raises(EventDecodeError) as caught:
        Everything.from_json(body)
    error = caught.value
    assert (error.path, error.found) == (path, found)
    assert error.expected
    assert error.offset is None
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b"", 0),
        (b'{"x":1', 6),
        (b'{"x":}', 5),
        (b'{"x":1}}', 7),
        (b'{\n "x":\n  tru }', 10),
        ('{"é":1,"x":}'.encode(), 12),
        (b'{"x":1,"y":[1,-Infinity]}', 14),
        (b'{"x":1,"y":"NaN","z":NaN}', 21),
    ],
)
def test_offset(body: bytes, offset: int) -> None:
    """For broken JSON the offset in bytes is where the parser stopped."""
    with pytest.raises(EventDecodeError) as caught:
        Small.from_json(body)
    assert caught.value.offset is not None
    assert abs(caught.value.offset - offset) <= 3
    assert caught.value.expected == "JSON"


def test_the_payload_is_not_in_the_error() -> None:
    """Neither the error nor what hangs on it holds the body."""
    body = b'{"x":"a","secret":"' + CANARY.encode() + b'"}'
    for cut in (body, body[:-1]):
        with pytest.raises(EventDecodeError) as caught:
            Small.from_json(cut)
        error = caught.value
        assert CANARY not in str(error) + repr(error) + repr(vars(error))
        assert error.__cause__ is None
        assert error.__context__ is None


def test_validators_that_break() -> None:
    """What a validator of the user's raises in reading is an EventDecodeError with its cause."""

    class Breaks(Event, topic="breaks"):
        x: int

        @field_validator("x")
        @classmethod
        def break_it(cls, value: int) -> int:
            if value == 1:
                raise ValueError("one is not allowed")
            raise KeyError(value)

    with pytest.raises(EventDecodeError, match="one is not allowed"):
        Breaks.from_json(b'{"x":1}')
    with pytest.raises(EventDecodeError, match="KeyError") as caught:
        Breaks.from_json(b'{"x":2}')
    assert isinstance(caught.value.__cause__, KeyError)


def test_bytes_like_bodies() -> None:
    """A bytearray and a memoryview are bodies too."""
    for body in (bytearray(b'{"x":1}'), memoryview(b'{"x":1}')):
        assert Small.from_json(body) == Small(x=1)


def mutated(rng: random.Random, body: bytes) -> bytes:
    data = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        match rng.randrange(5):
            case 0 if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
            case 1 if data:
                del data[rng.randrange(len(data)) : rng.randrange(len(data) + 1)]
            case 2:
                at = rng.randrange(len(data) + 1)
                data[at:at] = rng.choice(TOKENS)
            case 3 if data:
                start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
                data[start:start] = data[start:end]
            case _:
                data[rng.randrange(len(data) + 1) :] = b""
    return bytes(data)


TOKENS = [
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"null", b"NaN", b"-", b"1e999", b"0"),
    *(b"\\ud800", b"\\u0022", b"true", b"\xff", b"\x00", b'"raw":', b'"x":', b" ", b"\n"),
    b"9" * 30,
]


@pytest.mark.fault("INP-06")
@pytest.mark.stress
@pytest.mark.timeout(900)
def test_fuzzed_bodies() -> None:
    """Whatever comes is an event that is written and read again, or an EventDecodeError.

    1 M bodies in a stress run, 10,000 here.
    """
    seed = 20240501
    rng = random.Random(seed)
    raw_body = b'{"x":1,"raw":{"a":[1,"}",{"b":1e2}]},"y":[]}'
    started = time.monotonic()
    counts = {"read": 0, "refused": 0}
    total = 1_000_000 if STRESS else 10_000
    for number in range(total):
        cls, body = ((Everything, GOOD), (WithRaw, raw_body))[number % 2]
        body = mutated(rng, body)
        try:
            event = cls.from_json(body)
        except EventDecodeError:
            counts["refused"] += 1
            continue
        counts["read"] += 1
        assert cls.from_json(event.to_json()) == event, (seed, number)
    assert sum(counts.values()) == total
    assert min(counts.values()) > total / 100
    assert time.monotonic() - started < 800


@pytest.mark.fault("INP-08")
def test_no_name_from_the_wire_is_looked_up() -> None:
    """Bodies and ids that name modules and classes are data: nothing is imported for them."""
    names = ["os:system", "subprocess.Popen", "antigravity", "this", "__main__.Everything"]
    before = set(sys.modules)
    for name in names:
        text = name.encode()
        for key in (b"__class__", b"$type", b"py/object", b"name", b"type"):
            body = b'{"x":1,"' + key + b'":"' + text + b'"}'
            event = Small.from_json(body, event_id=name)
            assert type(event) is Small
            assert event.to_json() == b'{"x":1}'
        with pytest.raises(EventDecodeError):
            Small.from_json(b'{"x":"' + text + b'"}')
    assert set(sys.modules) == before


@pytest.mark.fault("INP-09")
def test_no_code_from_data() -> None:
    """Nothing in the package can turn data into code or objects of the sender's choice."""
    banned_modules = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "importlib"}
    banned_calls = {"eval", "exec", "compile", "__import__"}
    files = sorted(Path(eventflow.events.__file__).parent.rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & banned_modules, file
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in banned_modules, file
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in banned_calls, file


@pytest.mark.parametrize("wrong", ['{"x":1}', None, 7, [1], {"x": 1}], ids=repr)
def test_a_body_is_bytes(wrong: Any) -> None:
    """What is no bytes is refused with what to give, and a number makes no room for as many."""
    with pytest.raises(
        TypeError, match=rf"bytes, bytearray or memoryview, not {type(wrong).__name__}"
    ):
        Small.from_json(wrong)
    for good in (bytearray(b'{"x":1}'), memoryview(b'{"x":1}')):
        assert Small.from_json(good) == Small(x=1)


@pytest.mark.parametrize("cls", [Small, WithRaw])
@pytest.mark.parametrize("wrong", ['{"x":1,"raw":"\ud800"}', None, 7, [1], {"x": 1}], ids=ascii)
def test_pydantic_s_way_in_has_pydantic_s_errors(cls: type[Event], wrong: Any) -> None:
    """model_validate_json refuses what is no JSON by a ValidationError, whatever it is."""
    with pytest.raises(ValidationError, match=r"unicode|JSON"):
        cls.model_validate_json(wrong)
    with pytest.raises(ValidationError, match=r"unicode|JSON"):
        Line.model_validate_json(wrong)
