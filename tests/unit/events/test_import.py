"""What importing the events leaves for later, and that the classes of users are not left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import new_class

import pytest

from eventflow import Event, Part
from eventflow.errors import EventDefinitionError

ROOT = Path(__file__).parents[3]


def test_import_does_not_look_for_plugins() -> None:
    """Pydantic reads the entry points of every installed package for the first model it builds."""
    probe = "import eventflow.events, sys; print('pydantic.plugin._loader' in sys.modules)"
    command = [sys.executable, "-c", probe]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert ran.stdout == "False\n"


@pytest.mark.parametrize("base", [Event, Part])
def test_classes_of_users_are_complete_when_they_are_made(base: type[Event | Part]) -> None:
    """Only our own bases are built on first use; a broken class is refused where it stands."""
    assert "defer_build" not in base.model_config
    made = new_class("Made", (base,), {}, lambda body: body.update(__annotations__={"x": int}))
    assert vars(made)["__pydantic_complete__"]
    with pytest.raises(EventDefinitionError, match=r"Broken\.x"):
        new_class("Broken", (base,), {}, lambda body: body.update(__annotations__={"x": list}))


@pytest.mark.parametrize("base", [Event, Part])
def test_bases_are_built_on_first_use(base: type[Event | Part]) -> None:
    """Whoever makes an instance of a base, or asks for its schema, gets it."""
    assert base() == base()
    assert base.model_json_schema()["type"] == "object"
