"""The site: its nav, its reference, ``llms.txt``, and that it loads nothing from elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import TYPE_CHECKING, Any

import pytest

import eventflow
from tests.project.source import ROOT

if TYPE_CHECKING:
    from types import ModuleType

DOCS = ROOT / "docs"
CONFIG = ROOT.joinpath(".mkdocs.yml").read_text(encoding="utf-8")
NAV = re.findall(r"^ +- (?:.+: )?([\w/-]+\.md)$", CONFIG.split("\nnav:\n", 1)[1], re.MULTILINE)


def load(name: str) -> ModuleType:
    """A file of .ci/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"ci_{name}", ROOT / f".ci/{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site: Any = load("site")


def test_every_page_is_in_the_nav_once() -> None:
    """Fragments of the changelog and the template of decisions aside."""
    pages = {
        str(path.relative_to(DOCS))
        for path in DOCS.rglob("*.md")
        if "changelog.d" not in path.parts and path.name != "template.md"
    }
    assert sorted(NAV) == sorted(pages)


def test_llms_txt_has_every_page_of_the_nav() -> None:
    """Each with a title, a link to its Markdown, and in most cases what it is about."""
    entries = [("Section", path.removesuffix(".md"), path) for path in NAV]

    text = site.llms_txt(entries, "What it is.")

    assert text.startswith("# eventflow\n\n> What it is.\n\n## Section\n\n- [")
    assert re.findall(r"^- \[.+\]\(([^)]+)\)", text, re.MULTILINE) == NAV
    described = re.findall(r"^- \[.+?\]\([^)]+\): .+", text, re.MULTILINE)
    assert len(described) > len(NAV) * 3 / 4
    assert not re.search(r"\): .*\]\(", text), "a summary has links of its own"


def test_every_public_module_has_a_page() -> None:
    """``docs/reference/<name>.md`` with a line ``::: eventflow.<name>``; the build checks names."""
    texts = "".join(p.read_text(encoding="utf-8") for p in DOCS.joinpath("reference").glob("*.md"))
    shown = re.findall(r"^::: (\S+)$", texts, re.MULTILINE)

    modules = [name for name in shown if name.rpartition(".")[2] not in eventflow.__all__]
    assert sorted(modules) == sorted(site.public_modules())
    assert len(shown) == len(set(shown))


def test_a_page_of_the_reference_says_where_the_rest_is() -> None:
    """For whoever opens it in the checkout, where it is one line."""
    for path in DOCS.joinpath("reference").glob("*.md"):
        before, directive, _ = path.read_text(encoding="utf-8").partition("\n::: ")
        assert not directive or "`make docs`" in before, path.name


def test_the_reference_lists_the_names_of_the_top() -> None:
    """Each leads to where it lives, which is the same object."""
    text = DOCS.joinpath("reference/index.md").read_text(encoding="utf-8")
    names = dict(re.findall(r"^\| \[`(\w+)`\]\[([\w.]+)\] \|", text, re.MULTILINE))

    assert set(names) == set(eventflow.__all__)
    for name, home in names.items():
        module, _, own = home.rpartition(".")
        assert own == name
        assert getattr(importlib.import_module(module), name) is getattr(eventflow, name)


def test_the_markdown_of_a_reference_page_has_the_docstrings() -> None:
    """What a program reads instead of the site's HTML."""
    text = site.source("reference/failure.md")

    assert ":::" not in text
    assert "## eventflow.failure.Retry(" in text
    assert "### eventflow.failure.Retry.delay(" in text
    assert "spread evenly" in text


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.html", '<script src="https://cdn.example/x.js"></script>', 1),
        ("a.html", '<img src="//cdn.example/x.png">', 1),
        ("a.html", '<img srcset="https://cdn.example/x.png 2x">', 1),
        ("a.html", '<link rel="stylesheet" href="https://fonts.example/css">', 1),
        ("a.html", '<link rel="preconnect" href="https://fonts.example">', 1),
        ("a.html", '<p style="background: url(https://cdn.example/x.png)">', 1),
        ("a.html", "<style>@import 'https://cdn.example/x.css';</style>", 1),
        ("a.html", '<iframe src="https://video.example/1"></iframe>', 1),
        ("a.html", '<pre class="mermaid"><code>graph</code></pre>', 1),
        ("a.svg", '<svg><image href="https://cdn.example/x.png"/></svg>', 1),
        ("a.css", "@font-face { src: url('https://fonts.example/x.woff2') }", 1),
        ("a.html", '<a href="https://docs.example/">read on</a>', 0),
        ("a.html", '<script src="assets/x.js"></script><img src="img/x.svg">', 0),
        ("a.css", "a { background: url(img/x.svg) }", 0),
        ("a.js", "fetch('https://cdn.example')", 0),
    ],
)
def test_what_a_page_would_load_from_elsewhere_is_found(name: str, text: str, found: int) -> None:
    """Links to follow are not loaded; a script of the theme's own is only text."""
    assert len(site.external(name, text)) == found


def test_the_build_is_strict() -> None:
    """With --quiet mkdocs counts no warnings, and --strict would let everything pass."""
    makefile = ROOT.joinpath("Makefile").read_text(encoding="utf-8")
    (command,) = re.findall(r"\$\(BIN\)/mkdocs build.*", makefile)
    assert "--strict" in command
    assert "--quiet" not in command
    assert "hooks: [.ci/site.py]" in CONFIG
