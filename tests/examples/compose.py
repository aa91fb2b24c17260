"""The compose file of the example, as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

__all__ = ("DIRECTORY", "OURS", "WORKERS", "kafka_properties", "services")

DIRECTORY = Path(__file__).resolve().parents[2] / "examples/github_webhooks"
WORKERS = ("worker-1", "worker-2")
OURS = ("topics", "receiver", *WORKERS)


def services() -> dict[str, dict[str, Any]]:
    """Its services, by name."""
    text = DIRECTORY.joinpath("compose.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    return found


def kafka_properties() -> dict[str, str]:
    """What the image makes of the environment: KAFKA_NODE_ID is node.id, and so on."""
    return {
        name.removeprefix("KAFKA_").lower().replace("_", "."): value
        for name, value in services()["kafka"]["environment"].items()
    }
