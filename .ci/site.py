"""What the site's build does beyond mkdocs: a check of what it built, and ``llms.txt``.

A hook of ``.mkdocs.yml``. What it finds wrong is a warning, which ``make docs`` does not let pass:
something loaded from another machine, or a public name that the reference does not show.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = (
    "Entry",
    "external",
    "llms_txt",
    "on_nav",
    "on_page_content",
    "on_post_build",
    "public_modules",
    "source",
)

ROOT = Path(__file__).resolve().parents[1]
log = logging.getLogger("mkdocs.hooks.site")

DIRECTIVE = re.compile(r"^::: (\S+)\n?(?: {4}.*\n?)*", re.MULTILINE)
CSS_URL = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""")
LOADED_BY_LINK = {
    "stylesheet",
    "icon",
    "preload",
    "modulepreload",
    "prefetch",
    "preconnect",
    "manifest",
}

Entry = tuple[str, str, str]
"""A page: its section (or nothing), its title, its path below docs/."""
entries: list[Entry] = []


# The reference


def public_modules() -> tuple[str, ...]:
    """Modules that users import from: those directly below eventflow.

    Of a package that offers nothing itself, the modules inside; packages in a package too.
    ``lifecycle`` is for the bus, and what of it is for users stands at the top; ``cli`` is for the
    command line.
    """
    found: list[str] = []
    for path in sorted(ROOT.joinpath("eventflow").iterdir()):
        name = path.stem
        if name.startswith("_") or name in {"cli", "lifecycle"}:
            continue
        if path.suffix == ".py" or path.joinpath("__init__.py").exists():
            module = importlib.import_module(f"eventflow.{name}")
            if module.__all__:
                found.append(module.__name__)
                inner = sorted(p.parent.name for p in path.glob("*/__init__.py"))
                found += [f"{module.__name__}.{each}" for each in inner]
            elif path.is_dir():
                inside = [*path.glob("*.py"), *(p.parent for p in path.glob("*/__init__.py"))]
                inner = sorted(p.stem for p in inside if not p.stem.startswith("_"))
                found += [f"{module.__name__}.{each}" for each in inner]
    return tuple(found)


def described(name: str) -> Iterator[tuple[str, Any]]:
    """What a ``:::`` line shows: the public names of a module, or one name of the top."""
    top = importlib.import_module("eventflow")
    own = name.removeprefix("eventflow.")
    if own in top.__all__:
        yield name, getattr(top, own)
        return
    module = importlib.import_module(name)
    for each in module.__all__:
        yield f"{name}.{each}", getattr(module, each)


def plain(name: str) -> str:
    """The docstrings behind a ``:::`` line, as Markdown without a site."""
    parts: list[str] = []
    for qualified, value in described(name):
        parts.append(f"## {qualified}{signature(value)}\n\n{inspect.getdoc(value) or ''}\n")
        if isinstance(value, type):
            for attribute, member in inspect.getmembers(value):
                documented = isinstance(member, property) or inspect.isroutine(member)
                home = getattr(getattr(member, "fget", None) or member, "__module__", None) or ""
                if documented and not attribute.startswith("_") and home.startswith("eventflow"):
                    text = inspect.getdoc(member) or ""
                    parts.append(f"### {qualified}.{attribute}{signature(member)}\n\n{text}\n")
    return "\n".join(parts)


def signature(value: object) -> str:
    if not callable(value):
        return ""
    try:
        return str(inspect.signature(value)).replace("'", "")
    except (TypeError, ValueError):
        return ""


# What a page loads


class _Loads(HTMLParser):
    """Collects the addresses that a browser fetches to show a page; links to follow aren't."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        loads = [values.get(name, "") for name in ("src", "srcset", "poster", "data")]
        if tag == "link" and LOADED_BY_LINK & set(values.get("rel", "").lower().split()):
            loads.append(values.get("href", ""))
        if tag in {"image", "use"}:
            loads += [values.get("href", ""), values.get("xlink:href", "")]
        self.found += [url for url in loads if re.match(r"(?:https?:)?//", url.strip())]
        self.found += CSS_URL.findall(values.get("style", ""))
        if tag in {"pre", "div", "code"} and "mermaid" in values.get("class", "").split():
            self.found.append("mermaid, which the theme's script fetches to draw a diagram")


def external(name: str, text: str) -> list[str]:
    """What a built file would load from another machine."""
    if name.endswith(".css"):
        return CSS_URL.findall(text)
    if not name.endswith((".html", ".svg")):
        return []
    parser = _Loads()
    parser.feed(text)
    styles = "".join(re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL))
    return parser.found + CSS_URL.findall(styles)


# llms.txt


def summary(text: str) -> str:
    """The first paragraph of a page, as one line without links."""
    body = text.partition("\n# ")[2] if text.startswith("\n# ") else text.partition("\n")[2]
    for paragraph in re.split(r"\n\s*\n", body):
        line = " ".join(paragraph.split())
        if line and not line.startswith(("|", "```", "#", "-", "<", ":::", "!", ">")):
            return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line)
    return ""


def source(path: str) -> str:
    """A page's Markdown, its ``:::`` lines replaced by the docstrings they stand for."""
    text = ROOT.joinpath("docs", path).read_text(encoding="utf-8")
    return DIRECTIVE.sub(lambda found: plain(found[1]), text)


def llms_txt(pages: Iterable[Entry], description: str) -> str:
    """The index for readers that are programs: every page of the nav, as Markdown."""
    lines = ["# eventflow", "", f"> {description}", ""]
    before = None
    for section, title, path in pages:
        if section != before:
            lines += ["", f"## {section}", ""] if before is not None else [f"## {section}", ""]
            before = section
        text = ROOT.joinpath("docs", path).read_text(encoding="utf-8")
        about = summary(text)
        lines.append(f"- [{title}]({path})" + (f": {about}" if about else ""))
    return "\n".join(lines) + "\n"


# The hooks


def on_nav(nav: Any, **_: Any) -> Any:
    """Note down the pages, in the order of the nav."""
    entries.clear()
    for page in nav.pages:
        section = page.parent.title if page.parent is not None else "Pages"
        title = page.title or page.file.src_uri
        if title == page.file.src_uri or page.title is None:
            heading = re.search(r"^# (.+)$", page.file.content_string, re.MULTILINE)
            title = heading[1] if heading else page.file.src_uri
        entries.append((section, title, page.file.src_uri))
    return nav


def on_page_content(html: str, **_: Any) -> str:
    """Two colons introduce a block in reStructuredText; here the block speaks for itself."""
    return html.replace("<p>::</p>", "").replace("<p>Example::</p>", "<p>Example:</p>")


def on_post_build(config: Any, **_: Any) -> None:
    """Write ``llms.txt`` and the pages' Markdown; look at what was built."""
    site = Path(config["site_dir"])
    site.joinpath("llms.txt").write_text(
        llms_txt(entries, config["site_description"]), encoding="utf-8"
    )
    texts = [source(path) for _, _, path in entries]
    for (_, _, path), text in zip(entries, texts, strict=True):
        site.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
        site.joinpath(path).write_text(text, encoding="utf-8")
    site.joinpath("llms-full.txt").write_text("\n\n".join(texts), encoding="utf-8")

    shown = ""
    for path in sorted(site.rglob("*")):
        if path.suffix not in {".html", ".css", ".svg"}:
            continue
        text = path.read_text(encoding="utf-8")
        for address in external(path.name, text):
            log.warning("%s loads %s", path.relative_to(site), address)
        if "reference" in path.parts:
            shown += text
    for module in public_modules():
        for name, _value in described(module):
            if f'id="{name}"' not in shown:
                log.warning("the reference does not show %s", name)
