"""README.md and every page under docs/ do what they say."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.page import OUTPUT, Block, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in ROOT.joinpath("docs").rglob("*.md") if "changelog.d" not in p.parts),
]
RUNNER = Path(__file__).with_name("page.py")
LEFT_BEHIND = ("Warning", "Exception ignored", "never retrieved", "was destroyed", "never awaited")
# What nobody runs is "text", also where it is code: of libraries that are not installed here.
LANGUAGES = {"python", "sh", "console", "text", "json", "toml", "yaml", "dockerfile"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run(page: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        # Not -X dev: asyncio's debug mode writes to stderr when the machine is slow.
        [sys.executable, "-W", "error", str(RUNNER), str(page)],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))], ids=name
)
def test_the_python_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """Pasted from the top in a fresh process, with warnings as errors, it ends well."""
    result = run(page, tmp_path)

    assert result.returncode == 0, result.stderr
    # A page may show a failing handler, which is logged; nothing may be left behind.
    assert not [words for words in LEFT_BEHIND if words in result.stderr], result.stderr


def test_the_commands_of_a_page_exist(subtests: pytest.Subtests) -> None:
    """A shell block holds make targets that there are, and nothing else."""
    for page in PAGES:
        with subtests.test(name(page)):
            makefile = ROOT.joinpath("Makefile").read_text(encoding="utf-8")
            targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
            for block in blocks(page):
                if block.language != "sh":
                    continue
                for line in filter(
                    None, (text.partition("#")[0].strip() for text in block.text.splitlines())
                ):
                    command = re.fullmatch(
                        r"(?:[A-Z]+=\S+ )*make(?P<target> [a-z-]+)?(?: [A-Z]+=(?:\"[^\"]*\"|\S+))*",
                        line,
                    )
                    assert command, f"{name(page)}:{block.line}: {line}"
                    assert (command["target"] or " help").strip() in targets, line


def test_the_blocks_of_a_page_are_labelled(subtests: pytest.Subtests) -> None:
    """A block without a known language would be neither run nor read."""
    for page in PAGES:
        with subtests.test(name(page)):
            assert {block.language for block in blocks(page)} <= LANGUAGES


def sessions(page: Path) -> Iterator[tuple[Block, str, str]]:
    """The commands of a page's console blocks, each with what it is said to print."""
    for block in blocks(page):
        if block.language == "console":
            for part in block.text.split("$ ")[1:]:
                command, _, output = part.partition("\n")
                yield block, command, output


def normal(output: str) -> str:
    """Without what differs from run to run: how long it took."""
    return re.sub(r" in \d+\.\d+s\b", " in 0.01s", output)


@pytest.mark.parametrize("page", [p for p in PAGES if [*sessions(p)]], ids=name)
def test_a_session_goes_as_the_page_says(page: Path, tmp_path: Path) -> None:
    """The files of a page, and the commands between them, in the order they stand there.

    Setting up is left out: the environment of the suite stands in for the reader's.
    """
    ran = 0
    for block in blocks(page):
        if block.title:
            tmp_path.joinpath(block.title).write_text(block.text)
        for _, command, output in [s for s in sessions(page) if s[0] == block]:
            program, *arguments = shlex.split(command)
            if program in {"mkdir", "cd", "python3", ".", "pip"}:
                assert output == "", f"{name(page)}: {command} is not run here"
                continue
            assert program == "python", f"{name(page)}: {command}"
            result = subprocess.run(
                [sys.executable, *arguments],
                cwd=tmp_path,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                check=False,
                timeout=50,
            )
            assert result.returncode == 0, result.stdout + result.stderr
            assert normal(result.stdout) == normal(output), command
            assert not [words for words in LEFT_BEHIND if words in result.stderr], result.stderr
            ran += 1
    assert ran


def links(page: Path) -> Iterator[Path]:
    """Where a page's relative links lead."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", text):
        if not target.startswith(("https://", "http://", "mailto:")):
            yield page.parent.joinpath(target).resolve()


def test_the_links_of_a_page_lead_somewhere(subtests: pytest.Subtests) -> None:
    """Relative links name files that are there."""
    for page in PAGES:
        with subtests.test(name(page)):
            for path in links(page):
                assert path.exists(), path


def reached(start: Path) -> set[Path]:
    """The pages that links lead to; one to a folder leads to what is in it."""
    found: set[Path] = set()
    ahead = [start]
    while ahead:
        page = ahead.pop()
        if page in found:
            continue
        found.add(page)
        for path in links(page):
            ahead += path.glob("*.md") if path.is_dir() else [path] * (path.suffix == ".md")
    return found


def test_every_page_is_reached_from_the_readme() -> None:
    """By links alone, as a reader goes who has opened nothing but the README."""
    missing = set(PAGES) - reached(ROOT / "README.md")
    assert not missing, ", ".join(sorted(map(name, missing)))


def test_a_page_that_nobody_links_is_noticed(tmp_path: Path) -> None:
    """What the test above relies on: links are followed, to folders too, and round in circles."""
    tmp_path.joinpath("folder").mkdir()
    texts = {
        "start.md": "[a](a.md#part) and [all](folder)",
        "a.md": "[back](start.md), [elsewhere](https://service.example/b.md)",
        "b.md": "[a](a.md)",
        "folder/c.md": "",
    }
    for path, text in texts.items():
        tmp_path.joinpath(path).write_text(text)

    pages = {str(path.relative_to(tmp_path)) for path in reached(tmp_path / "start.md")}

    assert pages == {"start.md", "a.md", "folder/c.md"}


GOOD = """
```python
import asyncio
async def main() -> None:
    print("main")
asyncio.run(main())
```

```python
value = await asyncio.sleep(0, 41)
print(value + 1)
```

<!-- output -->
```text
42
```
"""


def test_blocks_share_a_namespace_and_may_await(tmp_path: Path) -> None:
    """What the tests above rely on: order, one namespace, top-level await, output compared."""
    page = tmp_path / "page.md"
    page.write_text(GOOD)
    assert run(page, tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```python\nx = 1\n\nx.y\n```\n", 'page.md", line 4'),
        ("```python\nprint(1)\n```\n" + OUTPUT + "\n```text\n2\n```\n", "but the page says"),
        ("```python\nopen('f', 'w')\n```\n", "ResourceWarning"),
    ],
    ids=["raises", "prints something else", "warns"],
)
def test_a_wrong_page_is_noticed(tmp_path: Path, text: str, said: str) -> None:
    """With the page's own line in the traceback."""
    page = tmp_path / "page.md"
    page.write_text(text)

    result = run(page, tmp_path)

    assert said in result.stderr
