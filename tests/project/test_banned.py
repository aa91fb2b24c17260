"""What the package never does, read off its source."""

from __future__ import annotations

import ast

import pytest

from tests.project.source import dotted, modules

# Each turns bytes into running code, or loads a name that came from somewhere else.
UNSAFE_MODULES = {
    "cloudpickle", "code", "codeop", "dill", "jsonpickle", "marshal", "pickle", "pickletools",
    "runpy", "shelve",
}  # fmt: skip
UNSAFE_CALLS = {
    "__import__", "compile", "eval", "exec", "builtins.eval", "builtins.exec", "builtins.compile",
    "os.system", "os.popen", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.full_load_all",
    "yaml.unsafe_load", "yaml.unsafe_load_all",
}  # fmt: skip
UNSAFE_NAMES = {"UnsafeLoader", "FullLoader", "unsafe_load", "full_load"}
# It swallows cancellation on 3.11 (python/cpython#86296).
BANNED_CALLS = {"asyncio.wait_for", "asyncio.get_event_loop", "asyncio.tasks.wait_for"}
# Every task has an owner; these two packages own them.
TASK_CALLS = {"create_task", "ensure_future"}
TASK_OWNERS = ("eventflow.lifecycle", "eventflow.testing")


def findings(tree: ast.AST, *, owner: bool = False) -> list[tuple[ast.AST, str]]:
    """Every use of something banned, with its name."""
    found: list[tuple[ast.AST, str]] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                taken = [alias.name for alias in names]
                found += [(node, n) for n in taken if n.partition(".")[0] in UNSAFE_MODULES]
            case ast.ImportFrom(module=str(source), names=names):
                taken = [f"{source}.{alias.name}" for alias in names]
                if source.partition(".")[0] in UNSAFE_MODULES:
                    found.append((node, source))
                found += [(node, n) for n in taken if n in UNSAFE_CALLS | BANNED_CALLS]
            case ast.Call(func=func):
                name = dotted(func)
                if name in UNSAFE_CALLS:
                    found.append((node, name))
                if not owner and name.rpartition(".")[2] in TASK_CALLS:
                    found.append((node, name))
            case ast.Attribute() | ast.Name():
                name = dotted(node)
                if name in BANNED_CALLS or name.rpartition(".")[2] in UNSAFE_NAMES:
                    found.append((node, name))
            case _:
                pass
    return found


@pytest.mark.fault("INP-09")
def test_nothing_banned_is_used(subtests: pytest.Subtests) -> None:
    """No pickle, marshal, shelve, eval or unsafe yaml, no wait_for, no task without an owner."""
    for module in modules():
        with subtests.test(module.name):
            owner = module.name.startswith(TASK_OWNERS)
            found = [
                f"{module.at(node)}: {name}" for node, name in findings(module.tree, owner=owner)
            ]
            assert not found


@pytest.mark.fault("INP-09")
@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as p",
        "from marshal import loads",
        "def f():\n    import shelve",
        "eval('1')",
        "exec('x = 1')",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.UnsafeLoader)",
        "from yaml import unsafe_load",
        "__import__(name)",
        "asyncio.wait_for(x, 1)",
        "from asyncio import wait_for",
        "asyncio.create_task(f())",
        "loop.create_task(f())",
    ],
)
def test_the_scan_sees(source: str) -> None:
    """Each of these, planted, is found."""
    assert findings(ast.parse(source))
