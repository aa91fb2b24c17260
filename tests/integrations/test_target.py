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
    for target, hint in ((app, "uvicorn shop:app"), (lambda: app, "uvicorn --factory shop:app")):
        with pytest.raises(TargetError) as caught:
            await made(target, "shop:app")
        assert str(caught.value).startswith("shop:app must be an async context manager, not <")
        assert str(caught.value).endswith(f"an ASGI app is run by its server, e.g. {hint}")
