"""Runs the service: ``python -m examples.github_webhooks``, with ``--demo`` for its own traffic.

With ``--receiver`` it leaves the work to the processes of `worker`.

Ends with 0 when everything that was accepted was handled, or dropped by the policy that allows
it; with 1 when the stop had to cut something, or the demo found that something is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from eventflow.bus import BusStatistics
from examples.github_webhooks.app import create_app
from examples.github_webhooks.demo import DELIVERIES, Demo
from examples.github_webhooks.pages import rows_of
from examples.github_webhooks.server import Server, listen
from examples.github_webhooks.settings import Settings
from examples.github_webhooks.signature import sign

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from eventflow.lifecycle.ledger import ServiceLedger

CURL = """\
curl -i {url}/webhooks/github -H 'X-GitHub-Event: push' \\
    -H "X-GitHub-Delivery: curl-$(date +%s)" -H 'X-Hub-Signature-256: {signature}' \\
    --data-binary '{body}'"""
BODY = (
    '{"ref":"refs/heads/main","commits":[{"message":"Say hello"}],'
    '"repository":{"full_name":"you/first"},"sender":{"login":"you"}}'
)


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def main() -> int:
    """Run until a signal, or the end of the demo; print the ledger."""
    parser = argparse.ArgumentParser(prog="python -m examples.github_webhooks")
    parser.add_argument(
        "--demo",
        nargs="?",
        type=int,
        const=DELIVERIES,
        metavar="N",
        help=f"make traffic of N deliveries ({DELIVERIES}), then end",
    )
    parser.add_argument("--receiver", action="store_true", help="workers do the work")
    options = parser.parse_args()
    log_to_stderr()
    with tempfile.TemporaryDirectory(prefix="github-webhooks-") as scratch:
        try:
            if options.receiver:
                settings = Settings.of_several(os.environ)
            else:
                settings = Settings.from_environment(os.environ, database=Path(scratch) / "feed.db")
            app = create_app(settings, is_receiver=options.receiver)
            listening = listen(settings.port, settings.address)
        except (OSError, OverflowError, ValueError) as exc:
            print(f"can't start: {exc}", file=sys.stderr)
            return 1
        with listening:
            return serve(app, listening, demo_of=options.demo)


def serve(app: FastAPI, listening: socket.socket, *, demo_of: int | None) -> int:
    """Serve on a socket; return the exit code."""
    settings: Settings = app.state.settings
    host = "127.0.0.1" if settings.address == "0.0.0.0" else settings.address  # noqa: S104 - compared
    url = f"http://{host}:{listening.getsockname()[1]}"
    demo = None if demo_of is None else Demo(url, settings, say, count=demo_of)

    def announce() -> None:
        say(f"Look at {url}/ (the ledger as JSON: {url}/stats)")
        say(f"The feed is stored in {settings.database}")
        if demo is not None:
            demo.ready.set()
            return
        signature = sign(BODY.encode(), settings.secret)
        say("Send it something; this one is signed, and can be pasted as it stands:\n")
        say(CURL.format(url=url, signature=signature, body=BODY) + "\n")
        say("Ctrl-C stops it.")

    server = Server(app, announce)

    def stop(*_: object) -> None:
        server.should_exit = True

    # Uvicorn takes the signals over while it serves. When it is done it raises them once
    # more, to us, so that nothing is left to do; and one that came too early isn't lost.
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    asyncio.run(server.serve([listening]) if demo is None else demo.run(server, listening))
    ledger: ServiceLedger = app.state.service.ledger
    for each in ledger.ledgers:
        say(f"\n{each if isinstance(each, BusStatistics) else each.summary()}")
    return 0 if is_complete(ledger) and (demo is None or demo.is_complete(ledger)) else 1


def is_complete(ledger: ServiceLedger) -> bool:
    """Tell whether everything was stored, and the stop cut nothing. Open pages don't count."""
    rows = {row.name: row for row in rows_of(ledger)}
    # A receiver has no row of what workers do; what they could not store is their exit code.
    listeners = [rows[n] for n in ("store", "decode", "count", "notify") if n in rows]
    cut = sum(row.cancelled + row.released + row.abandoned for row in listeners)
    stored = "store" not in rows or not rows["store"].failed
    return ledger.adds_up and not cut and not ledger.abandoned and stored


def log_to_stderr() -> None:
    """Warnings in full, except on a terminal: the ids of what was dropped fill a screen there."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    if sys.stderr.isatty():
        handler.setFormatter(logging.Formatter("%(levelname)s %(message).150s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
