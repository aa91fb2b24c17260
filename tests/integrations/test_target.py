"""An app as the target of ``eventflow run``."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from litestar import Litestar
from starlette.applications import Starlette

from eventflow.cli._target import TargetError, made


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
