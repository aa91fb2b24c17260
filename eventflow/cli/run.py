"""``eventflow run pkg.mod:target``: start a service, and stop it well."""

from __future__ import annotations

import argparse
import os
import signal
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eventflow import logging as eventflow_logging
from eventflow.cli._exit import PatientStream, say
from eventflow.cli._parent import Reloader, Workers
from eventflow.cli._serve import Process
from eventflow.cli._target import TargetError, find, own_traceback

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from eventflow.cli._exit import Guard
    from eventflow.cli._signals import StopSignals

__all__ = ("add_to", "run")

EPILOG = """\
exit codes: 0 when everything was accounted for; 1 when a member failed, or something could not be
stopped; 2 when the target can't be loaded; 143 or 130 when a signal ended the start.
signals: SIGTERM or SIGINT drains, a second one cancels, a third one leaves at once."""


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="run a service until it is told to stop",
        description="Run an async context manager, or what a function makes, until a signal.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", help="pkg.mod:service, imported from the working directory")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--workers", type=_count, metavar="N", help="that many processes, supervised")
    many.add_argument(
        "--reload", action="store_true", help="start anew when a Python file changes (development)"
    )
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument(
        "--ready-file", type=Path, metavar="PATH", help="exists while the service is ready"
    )
    parser.add_argument(
        "--log-format",
        choices=("json", "console"),
        help="default: console on a terminal, else json",
    )
    # From a parent to its child: the socket that tells each about the other's end.
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(command=run)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return number


def run(arguments: argparse.Namespace, signals: StopSignals, guard: Guard) -> int:
    """Do what the arguments say; returns the exit code."""
    if arguments.parent is not None:
        os.set_inheritable(arguments.parent, False)
        guard.watch_parent(arguments.parent, lambda: _parent_is_gone(signals))
    is_parent = bool(arguments.workers or arguments.reload)
    eventflow_logging.configure(
        format=arguments.log_format, stream=PatientStream() if is_parent else None
    )
    try:
        ready_file = _checked_ready_file(arguments.ready_file)
        loop_factory = _loop_factory(arguments.loop)
        options = ["--loop", arguments.loop]
        if arguments.log_format:
            options += ["--log-format", arguments.log_format]
        if arguments.workers:
            workers = Workers(arguments.target, options, signals, count=arguments.workers)
            return workers.run(ready_file)
        if arguments.reload:
            watchfiles = _extra("watchfiles", "reload")
            reloader = Reloader(arguments.target, options, signals, watchfiles=watchfiles)
            return reloader.run(ready_file)
        target = find(arguments.target)
    except TargetError as exc:
        say(str(exc))
        return 2
    except Exception as exc:  # noqa: BLE001 - whatever importing the target raises
        say(f"{arguments.target} could not be imported\n{own_traceback(exc)}")
        return 2
    process = Process(
        target,
        arguments.target,
        signals=signals,
        guard=guard,
        ready_file=ready_file,
        parent=arguments.parent,
    )
    return process.run(loop_factory)


def _parent_is_gone(signals: StopSignals) -> None:
    if not signals.count:
        os.kill(os.getpid(), signal.SIGTERM)


def _checked_ready_file(path: Path | None) -> Path | None:
    """The path, without what a process that was killed has left there."""
    if path is None:
        return None
    path = path.absolute()  # the service may change its directory
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        raise TargetError(f"--ready-file {path}: {exc.strerror}") from None
    if not path.parent.is_dir():
        raise TargetError(f"--ready-file {path}: there is no such directory")
    return path


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "asyncio":
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = _extra("uvloop", "uvloop").new_event_loop
    return factory


def _extra(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name != module:
            raise
        raise TargetError(
            f"{module} is not installed; pip install 'eventflow-asyncio[{extra}]'"
        ) from None
