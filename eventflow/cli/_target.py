"""What ``pkg.mod:target`` names: found, called where it is a factory, and made a service."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from eventflow._escape import error_text
from eventflow.errors import InvalidMemberError
from eventflow.lifecycle.callables import is_asgi_app
from eventflow.lifecycle.service import Service

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("TargetError", "find", "made", "own_traceback")


class TargetError(Exception):
    """The target can't be run; the text is one line that says why."""


def find(text: str) -> object:
    """Import the module of ``pkg.mod:target`` and return what the rest names.

    The working directory is importable, as with ``python -m``.

    Raises:
        TargetError: There is no such module or attribute, or it is not of that form.
        Exception: Whatever importing the module raised.
    """
    module_name, _, path = text.partition(":")
    if not module_name or not path or module_name.startswith("."):
        raise TargetError(f"{text!r} does not name a target; write {_form(module_name)}")
    directory = os.getcwd()  # noqa: PTH109 - sys.path holds texts
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        # One that the module itself could not import is its own affair.
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise
        raise TargetError(f"there is no module {exc.name!r}, seen from {directory}") from None
    try:
        return attrgetter(path)(module)
    except AttributeError as exc:
        raise TargetError(f"{text}: {exc}") from None


def _form(module_name: str) -> str:
    """What a target looks like, with the module that was given where it is one, or its file."""
    module = module_name.removesuffix(".py").replace("/", ".")
    if all(part.isidentifier() for part in module.split(".")):
        return f"{module}:NAME, where NAME is the service or a function that returns it"
    return "pkg.mod:service"


async def made(target: object, text: str) -> Service:
    """The service that a target is, or that calling it makes.

    Raises:
        TargetError: It is neither an async context manager nor a function that returns one.
        Exception: Whatever calling it raised.
    """
    name = text.partition(":")[2]
    thing = cast("Any", target)
    if is_asgi_app(target):
        pass  # not to be called here; refused below, with whose it is
    elif callable(target) and (isinstance(target, type) or not hasattr(type(target), "__aenter__")):
        try:
            inspect.signature(target).bind()
        except TypeError as exc:
            raise TargetError(f"{text} can't be called without arguments: {exc}") from None
        except ValueError:
            pass  # a builtin without a signature: the call will tell
        thing = cast("Any", target)()
        if inspect.isawaitable(thing):
            thing = await thing
    if isinstance(thing, Service):
        return thing
    try:
        return Service(thing, name=name)
    except InvalidMemberError as exc:
        said = str(exc).replace("argument 1 of Service", text)
        if is_asgi_app(thing):
            typed = text if thing is target else f"--factory {text}"
            said = said.replace("uvicorn app:app", f"uvicorn {typed}")
        raise TargetError(said) from None


def own_traceback(error: BaseException) -> str:
    """The traceback of an error in a target's own code, without the frames that lead there."""
    found: TracebackType | None = error.__traceback__
    while found is not None and (
        found.tb_frame.f_code.co_filename.startswith("<frozen importlib")
        or found.tb_frame.f_globals.get("__name__") in (__name__, "importlib", "eventflow.cli.run")
    ):
        found = found.tb_next
    return error_text(error.with_traceback(found))
