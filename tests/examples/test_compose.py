"""compose.yaml and the Dockerfile beside it name what there is. tests/brokers/kafka runs it."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from eventflow import Service
from eventflow.brokers.kafka import KafkaBroker
from eventflow.cli import run
from eventflow.messaging import connect
from examples.github_webhooks.server import Server
from examples.github_webhooks.settings import Settings
from tests.docs.page import blocks
from tests.examples.compose import DIRECTORY, OURS, WORKERS, kafka_properties, services
from tests.examples.service import ROOT
from tests.examples.service import Service as Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Compose's own, for values of its environment that come from outside.
FROM_OUTSIDE = re.compile(r"\$\{(\w+):-(\w*)\}")


class Read(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self, values: Mapping[str, str]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return super().get(key, default)


def environment(name: str) -> dict[str, str]:
    values: dict[str, str] = services()[name]["environment"]
    return {key: FROM_OUTSIDE.sub(r"\2", value) for key, value in values.items()}


def dockerfile() -> Iterator[tuple[str, str]]:
    for line in DIRECTORY.joinpath("Dockerfile").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            instruction, _, rest = line.partition(" ")
            yield instruction, rest


def test_it_has_a_kafka_a_receiver_and_two_workers() -> None:
    """And the step that makes the topics; the workers differ in nothing."""
    assert services().keys() == {"kafka", *OURS}
    assert services()["worker-1"] == services()["worker-2"]
    for service in services().values():
        assert service.keys() <= {
            *("command", "environment", "healthcheck", "image", "build", "depends_on"),
            *("ports", "stop_grace_period", "volumes"),
        }


@pytest.mark.parametrize("name", OURS)
def test_each_command_names_what_there_is(name: str) -> None:
    """A module that can be run, or a service that ``eventflow run`` finds; no shell in front."""
    program, *arguments = services()[name]["command"]
    if program == "eventflow":
        parser = argparse.ArgumentParser()
        run.add_to(parser.add_subparsers())
        module, _, attribute = parser.parse_args(arguments).target.partition(":")
        assert callable(getattr(importlib.import_module(module), attribute))
    else:
        assert (program, arguments[0]) == ("python", "-m")
        # Without its settings each of them starts, and says in one line that they are missing.
        tried = subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=ROOT,
            env=os.environ | {"EVENTFLOW_BROKER": "", "DATABASE": ""},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert (tried.returncode, tried.stderr.count("\n")) == (1, 1), tried.stderr
        assert tried.stderr.startswith("can't ")


@pytest.mark.parametrize("name", OURS)
def test_each_variable_is_a_setting(name: str) -> None:
    """None is passed over, and all together are what one of several processes needs."""
    given = Read(environment(name))
    settings = Settings.of_several(given)
    assert given.keys() <= given.names
    broker = connect(str(settings.broker))
    assert isinstance(broker, KafkaBroker)
    host, _, port = broker.settings.hosts[0].partition(":")
    assert host in services()
    assert kafka_properties()["advertised.listeners"] == f"PLAINTEXT://{host}:{port}"
    assert f"PLAINTEXT://:{port}" in kafka_properties()["listeners"].split(",")


def test_the_receiver_can_be_reached_from_this_machine_alone() -> None:
    """It listens on all addresses of its container, of which one port is published to loopback."""
    settings = Settings.of_several(environment("receiver"))
    assert settings.address == "0.0.0.0"
    assert services()["receiver"]["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]
    assert not [name for name in services() if name != "receiver" and "ports" in services()[name]]


def test_they_start_in_order() -> None:
    """Kafka answers, then the topics are made, then the others come."""
    assert "healthcheck" in services()["kafka"]
    assert services()["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    for name in ("receiver", *WORKERS):
        made = {"topics": {"condition": "service_completed_successfully"}}
        assert services()[name]["depends_on"] == made


def test_nobody_is_killed_while_they_stop() -> None:
    """Docker waits longer than requests, drain, grace and a second of a service take."""
    bounds = inspect.signature(Service).parameters
    stop_s = 1 + sum(bounds[name].default for name in ("drain_timeout", "cancel_grace"))
    requests = re.search(r"timeout_graceful_shutdown=(\d+)", inspect.getsource(Server))
    assert requests
    for name in ("receiver", *WORKERS):
        grace = re.fullmatch(r"(\d+)s", services()[name]["stop_grace_period"])
        assert grace
        assert int(grace[1]) > stop_s + int(requests[1])


def test_the_receivers_health_is_asked_for(tmp_path: Path) -> None:
    """The very program of the check ends with 0 while the service runs, and not with 0 after it."""
    program, *arguments = services()["receiver"]["healthcheck"]["test"][1:]
    assert program == "python"
    port = Settings.of_several(environment("receiver")).port

    def check() -> int:
        command = [each.replace(f":{port}/", f":{service.port}/") for each in arguments]
        return subprocess.run(
            [sys.executable, *command], check=False, capture_output=True, timeout=30
        ).returncode

    with Process(tmp_path) as service:
        assert check() == 0
        assert service.stop() == 0
    assert check() == 1


def test_a_workers_health_is_its_ready_file() -> None:
    """The check looks for the file that the command names."""
    for name in WORKERS:
        *_, option, path = services()[name]["command"]
        assert option == "--ready-file"
        assert services()[name]["healthcheck"]["test"] == ["CMD", "test", "-e", path]


def test_the_feed_is_shared() -> None:
    """Database and volume are in one place, which the image gives to its user."""
    named = yaml.safe_load(DIRECTORY.joinpath("compose.yaml").read_text(encoding="utf-8"))
    instructions = list(dockerfile())
    (user,) = (rest for instruction, rest in instructions if instruction == "USER")
    assert int(user) > 0
    for name in ("receiver", *WORKERS):
        (mounted,) = services()[name]["volumes"]
        volume, _, place = mounted.partition(":")
        assert volume in named["volumes"]
        assert str(Path(environment(name)["DATABASE"]).parent) == place
        assert ("RUN", f"mkdir {place} && chown {user} {place}") in instructions


def test_the_image_is_made_of_what_there_is() -> None:
    """Context, Dockerfile and what is copied exist, and are not left out of the context."""
    ignored = DIRECTORY.joinpath("Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    for name in OURS:
        build = services()[name]["build"]
        context = DIRECTORY.joinpath(build["context"]).resolve()
        assert context == ROOT
        assert context.joinpath(build["dockerfile"]) == DIRECTORY / "Dockerfile"
        for instruction, rest in dockerfile():
            if instruction == "COPY":
                for source in rest.split()[:-1]:
                    assert context.joinpath(source).exists()
                    assert f"!{source.removesuffix('/')}" in ignored
    (base,) = (rest for instruction, rest in dockerfile() if instruction == "FROM")
    version = re.fullmatch(r"python:3\.(\d+)-slim", base)
    assert version
    classifiers = ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert f'"Programming Language :: Python :: 3.{version[1]}"' in classifiers


def test_the_kafka_is_the_one_that_is_tested() -> None:
    """The official image, in the version of the broker that the tests run."""
    image, _, version = services()["kafka"]["image"].partition(":")
    assert image == "apache/kafka"
    pom = ROOT.joinpath("tests/servers/kafka.pom.xml").read_text(encoding="utf-8")
    assert f"<artifactId>kafka_2.13</artifactId><version>{version}</version>" in pom


def test_the_page_says_what_there_is() -> None:
    """docs/example.md starts the same modules by hand, and names services of this file."""
    lines = [
        line.partition("#")[0].strip()
        for block in blocks(ROOT / "docs/example.md")
        if block.language == "text"
        for line in block.text.splitlines()
    ]
    by_hand = {
        " ".join(line.split()[:3]) for line in lines if line.startswith(("python", "eventflow"))
    }
    assert by_hand == {" ".join(services()[name]["command"][:3]) for name in OURS}
    compose = [line.split()[2:] for line in lines if line.startswith("docker compose")]
    assert [command for command, *_ in compose] == ["up", "logs", "run", "kill", "logs", "down"]
    named = {
        word for _, *rest in compose for word in rest if re.fullmatch(r"receiver|worker\S*", word)
    }
    assert named == {"receiver", *WORKERS}
    printed = next(line for line in lines if line.startswith("worker 2"))
    assert re.fullmatch(r"worker \d+: store  [0-9a-f-]{36} push from partition [0-3]", printed)
