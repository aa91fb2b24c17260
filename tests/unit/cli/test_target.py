"""What is said of a target that can't be run. Processes with it: tests/fault/service."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from litestar import Litestar
from starlette.applications import Starlette

from eventflow.cli._target import TargetError, find, made


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ("job", "job:NAME"),
        ("job:", "job:NAME"),
        ("shop.jobs", "shop.jobs:NAME"),
        ("job.py", "job:NAME"),
        ("jobs/nightly.py", "jobs.nightly:NAME"),
        ("./job.py", "pkg.mod:service"),
        ("../job.py", "pkg.mod:service"),
        (".job:x", "pkg.mod:service"),
        (":x", "pkg.mod:service"),
        ("", "pkg.mod:service"),
        ("my-job", "pkg.mod:service"),
    ],
)
def test_a_target_without_a_name_is_told_what_to_write(given: str, form: str) -> None:
    """With the module that was given, where it is one, or a file of it."""
    with pytest.raises(TargetError) as caught:
        find(given)
    assert f"{given!r} does not name a target; write {form}" in str(caught.value)


@pytest.mark.parametrize(
    "app",
    [FastAPI(), Starlette(), Litestar([], logging_config=None)],
    ids=["fastapi", "starlette", "litestar"],
)
async def test_an_app_is_sent_to_its_server(app: Any) -> None:
    """As the target itself, and where a factory returns it."""
    for target in (app, lambda: app):
        with pytest.raises(TargetError) as caught:
            await made(target, "app:app")
        assert str(caught.value).startswith("app:app must be an async context manager, not <")
        assert str(caught.value).endswith("an ASGI app is run by its server, e.g. uvicorn app:app")
