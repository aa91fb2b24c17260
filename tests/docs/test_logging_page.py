"""What docs/logging.md says of uvicorn."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.docs.page import blocks

ROOT = Path(__file__).resolve().parents[2]

SERVER = """
import socket, threading, urllib.request
import uvicorn
import eventflow.logging

eventflow.logging.configure(format="json")
ready = threading.Event()

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        ready.set()
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})

listening = socket.create_server(("127.0.0.1", 0))
server = uvicorn.Server(uvicorn.Config(app, log_config=None))
thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
thread.start()
assert ready.wait(20)
urllib.request.urlopen(f"http://127.0.0.1:{listening.getsockname()[1]}/x", timeout=20).read()
server.should_exit = True
thread.join(20)
"""


def test_uvicorn_writes_in_the_same_form() -> None:
    """With ``log_config=None``, each of its lines is JSON, access log included."""
    result = subprocess.run(
        [sys.executable, "-c", SERVER], capture_output=True, text=True, check=True, timeout=50
    )
    assert result.stdout == ""
    written = [json.loads(line) for line in result.stderr.splitlines()]
    access = [line for line in written if line["logger"] == "uvicorn.access"]
    assert [line["event"].endswith('"GET /x HTTP/1.1" 200') for line in access] == [True]
    assert not any("color_message" in line for line in written)


APP = """
import eventflow.logging
from fastapi import FastAPI

eventflow.logging.configure(format="json")
app = FastAPI()

@app.get("/x")
async def x():
    return 1
"""


@pytest.mark.parametrize("given", [True, False])
def test_uvicorn_on_the_command_line_is_told_with_a_file(given: bool, tmp_path: Path) -> None:
    """With the page's file every line is JSON, from the first to the last; without, none is."""
    (file,) = (b for b in blocks(ROOT / "docs/logging.md") if b.title == "log.json")
    tmp_path.joinpath("log.json").write_text(file.text)
    tmp_path.joinpath("shop.py").write_text(APP)
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", "0"]
    if given:
        command += ["--log-config", "log.json"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        try:
            lines: list[str] = []
            while not (lines and "running on" in lines[-1]):
                lines.append(server.stderr.readline())
                assert lines[-1], lines
            port = int(lines[-1].partition("127.0.0.1:")[2].partition(" ")[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/x", timeout=20) as answer:
                assert answer.status == 200
            server.send_signal(signal.SIGTERM)
            out, rest = server.communicate(timeout=30)
        finally:
            server.kill()
    lines += rest.splitlines()
    if not given:
        assert not [line for line in lines if line.startswith("{")]
        return
    assert out == ""
    written = [json.loads(line) for line in lines]
    assert sum(line["event"].endswith('"GET /x HTTP/1.1" 200') for line in written) == 1
    assert written[-1]["logger"] == "uvicorn.error"
