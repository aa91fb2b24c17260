"""What docs/logging.md says of uvicorn."""

from __future__ import annotations

import json
import subprocess
import sys

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
