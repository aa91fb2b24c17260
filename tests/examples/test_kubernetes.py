"""The manifest under examples/kubernetes: its seconds add up, and its probes mean what they say."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.page import blocks

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT.joinpath("examples/kubernetes/deployment.yaml").read_text(encoding="utf-8")
PAGE = ROOT / "docs/kubernetes.md"
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
SLACK_S = 1


@cache
def pod() -> dict[str, Any]:
    deployment: dict[str, Any] = yaml.safe_load(TEXT)
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    spec = deployment["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    found: dict[str, Any] = spec["template"]["spec"]
    return found


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return dict(found)


def seconds(option: str) -> float:
    return float({e["name"]: e["value"] for e in container()["env"]}[option])


def argument(name: str) -> float:
    (value,) = (a.partition("=")[2] for a in container()["command"] if a.startswith(name))
    return float(value)


def test_the_grace_period_covers_the_whole_stop() -> None:
    """preStop, requests in flight, drain, grace and a second: less than Kubernetes waits."""
    program, pre_stop = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    before = [float(pre_stop), argument("--timeout-graceful-shutdown")]
    stop = [*before, seconds("DRAIN_TIMEOUT"), seconds("CANCEL_GRACE"), SLACK_S]

    assert pod()["terminationGracePeriodSeconds"] > sum(stop)
    parts = ("preStop", "flight", "drain_timeout", "cancel_grace")
    said = re.search(".*".join(rf"{part} +(\d+)" for part in parts) + r".*= +(\d+)\n", TEXT)
    assert said
    assert [float(number) for number in said.groups()] == [*stop[:4], sum(stop)]


def test_the_seconds_are_the_defaults_of_the_bus() -> None:
    """Who changes nothing in the app has the right manifest."""
    from eventflow import EventBus

    defaults = inspect.signature(EventBus).parameters
    assert seconds("DRAIN_TIMEOUT") == defaults["drain_timeout"].default
    assert seconds("CANCEL_GRACE") == defaults["cancel_grace"].default


@pytest.mark.parametrize("probe", PROBES)
def test_each_probe_names_its_port(probe: str) -> None:
    """A declared port by its name, so that there is one number; the server listens on it."""
    declared = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert container()[probe]["httpGet"]["port"] in declared
    assert argument("--port") == declared["http"]


def test_readiness_is_not_liveness() -> None:
    """A pod that drains gets no requests, and is not restarted for it."""
    ready, alive = container()["readinessProbe"], container()["livenessProbe"]
    assert ready["httpGet"]["path"] != alive["httpGet"]["path"]
    restart_s = alive["periodSeconds"] * alive["failureThreshold"]
    assert restart_s > ready["periodSeconds"] * ready["failureThreshold"]
    assert container()["startupProbe"]["failureThreshold"] > 1


def test_it_runs_with_as_little_as_it_needs() -> None:
    """Not as root, without privileges, tokens or a writable root; image and memory are bounded."""
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["runAsUser"] > 0
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod()["automountServiceAccountToken"] is False
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container()["resources"]["limits"]
    tag = container()["image"].rpartition(":")[2]
    assert tag
    assert tag != "latest"


def dockerfile() -> dict[str, list[str]]:
    """The instructions of the one in docs/kubernetes.md."""
    (text,) = (block.text for block in blocks(PAGE) if block.language == "dockerfile")
    found: dict[str, list[str]] = {}
    for line in filter(None, text.splitlines()):
        instruction, _, rest = line.partition(" ")
        found.setdefault(instruction, []).append(rest)
    return found


def test_the_image_starts_what_the_manifest_starts() -> None:
    """The very same command, in the exec form, so that signals arrive."""
    (cmd,) = dockerfile()["CMD"]
    assert "ENTRYPOINT" not in dockerfile()
    assert json.loads(cmd) == container()["command"]  # the shell form is no JSON


def image(directory: Path) -> Path:
    """What the Dockerfile copies of the page's files, but for the checkout: that is installed."""
    files = {block.title: block.text for block in blocks(PAGE) if block.title}
    context, root = directory / "context", directory / "srv"
    context.joinpath("shop").mkdir(parents=True)
    context.joinpath("shop/app.py").write_text(files.pop("app.py"))
    for name, text in files.items():
        context.joinpath(name).write_text(text)
    root.mkdir()
    for source, target in (copied.split() for copied in dockerfile()["COPY"]):
        if source == "checkout/":
            continue
        if source.endswith("/"):
            shutil.copytree(context / source, root / target)
        else:
            shutil.copy(context / source, root / target)
    return root


def written(root: Path) -> set[Path]:
    return set(root.rglob("*"))


def answer(port: int, path: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
        status: int = response.status
    return status


@pytest.mark.slow
def test_the_manifests_command_runs_in_the_image(tmp_path: Path) -> None:
    """It starts, its probes pass, it logs JSON, writes no file, and SIGTERM ends it well.

    The address alone is another one: a free port of this machine.
    """
    root = image(tmp_path)
    before = written(root)
    program, *arguments = [str(each) for each in container()["command"]]
    assert program == "python"
    elsewhere = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=8080": "--port=0"}
    assert elsewhere.keys() <= set(arguments)
    environment = {each["name"]: each["value"] for each in container()["env"]}
    environment |= dict(line.split("=") for line in dockerfile()["ENV"])
    with subprocess.Popen(
        [sys.executable, *(elsewhere.get(each, each) for each in arguments)],
        cwd=root,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stderr is not None
        try:
            lines: list[str] = []
            while not (lines and "running on" in lines[-1]):
                lines.append(server.stderr.readline())
                assert lines[-1], lines
            port = int(lines[-1].partition("127.0.0.1:")[2].partition(" ")[0])
            for probe in PROBES:
                assert answer(port, container()[probe]["httpGet"]["path"]) == 200
            server.send_signal(signal.SIGTERM)
            _, rest = server.communicate(timeout=30)
        finally:
            server.kill()
    assert server.returncode == -signal.SIGTERM  # as the first process of a container: 0
    assert all(json.loads(line)["level"] == "info" for line in (*lines, *rest.splitlines()))
    assert written(root) == before


def test_the_image_runs_as_the_manifest_says() -> None:
    """The manifest's user and port, nothing written beside the code, a Python that will do."""
    assert dockerfile()["USER"] == [str(pod()["securityContext"]["runAsUser"])]
    (port,) = container()["ports"]
    assert dockerfile()["EXPOSE"] == [str(port["containerPort"])]
    assert dockerfile()["ENV"] == ["PYTHONDONTWRITEBYTECODE=1"]
    (base,) = dockerfile()["FROM"]
    version = re.fullmatch(r"python:3\.(\d+)-slim", base)
    assert version
    classifiers = ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8")
    assert f'"Programming Language :: Python :: 3.{version[1]}"' in classifiers


def test_the_server_is_started_without_a_shell() -> None:
    """A shell as process 1 would keep the signal to itself."""
    assert container()["command"][0] == "python"
    assert "args" not in container()
