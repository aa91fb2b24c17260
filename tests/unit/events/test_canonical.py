"""Canonical JSON."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventflow.errors import EventDecodeError
from eventflow.events import canonical_json


@pytest.mark.parametrize(
    ("document", "canonical"),
    [
        (b' { "b" : 1e2 , "a" : [ 1.0 , -0 , 1E5 ] } ', b'{"a":[1.0,-0,1E5],"b":1e2}'),
        (b'"\\u00e9\\/\\u003c"', '"é/<"'.encode()),
        ('{"\U0001f600":1,"\uffff":2}'.encode(), '{"\uffff":2,"\U0001f600":1}'.encode()),
        (b'{"a":1,"a":2}', b'{"a":2}'),
        (b"[true,false,null,{}]", b"[true,false,null,{}]"),
        (b"123456789012345678901234567890", b"123456789012345678901234567890"),
        (b"[" * 200 + b"]" * 200, b"[" * 200 + b"]" * 200),
    ],
)
def test_form(document: bytes, canonical: bytes) -> None:
    """Keys by code point, no blanks, number text kept, the fewest escapes; it is a fixed point."""
    assert canonical_json(document) == canonical
    assert canonical_json(canonical) == canonical


@pytest.mark.parametrize("bad", [b"", b"{", b"NaN", b"[Infinity]", b'"\xff"', b"[" * 10**5, b"1 2"])
def test_not_json(bad: bytes) -> None:
    """What is not JSON is a typed error."""
    with pytest.raises(EventDecodeError, match="not JSON"):
        canonical_json(bad)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_two_ways_of_writing_are_one(value: object) -> None:
    """However a writer escapes, indents and orders, the form is the same."""
    import json

    plain = json.dumps(value, ensure_ascii=False).encode()
    other = json.dumps(value, ensure_ascii=True, indent=2, sort_keys=True).encode()
    assert canonical_json(plain) == canonical_json(other)
    assert json.loads(canonical_json(plain)) == value
