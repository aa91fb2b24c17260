"""What was measured, as lines for a terminal, and as tables and a plot for the documentation."""

# matplotlib is installed for measuring alone; without it what it gives is of unknown type.
# pyright: reportMissingImports=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.bench.harness import Figure, Spread

TIMES = "\N{MULTIPLICATION SIGN}"
TO = "\N{EN DASH}"

__all__ = ("PAGE", "PLOT", "lines", "section", "write")

PAGE = Path("docs/performance.md")
PLOT = Path("docs/img/performance.svg")
Results = list[dict[str, Any]]


def lines(result: dict[str, Any]) -> str:
    """One measure, for a terminal."""
    before, after = result["load"]
    said = [f"{result['python']}: {result['measure']} (load {before} → {after})"]
    for data in result["figures"]:
        figure = Figure.from_dict(data)
        said.append(f"  {figure.label}: {_cell(figure)}".rstrip(": "))
        if figure.note:
            said.append(f"      {figure.note}")
    return "\n".join(said)


def write(results: Results) -> None:
    """Put tables between the markers of the page, and draw the plot.

    Some have their own place and their own conditions: what was not measured now stays.
    """
    page = PAGE.read_text()
    apart = {name: _with(results, name) for name in ("router", "kafka", "rabbitmq")}
    bus = [r for r in results if not any(r in its for its in apart.values())]
    tables = {name: section(its, name) for name, its in apart.items() if its}
    if bus:
        plot = f"\n\n![Ratios with their spread]({PLOT.relative_to(PAGE.parent)})"
        table, _, notes = _figures(bus, "figures").partition("\n\n")
        tables |= {
            "run": _run(bus),
            "figures": table + plot + (f"\n\n{notes}" if notes else ""),
            "peers": _peers(bus),
            "defaults": _defaults(bus),
        }
    for name, table in tables.items():
        begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"{PAGE} has no markers for {name}"
        page = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    PAGE.write_text(page)
    if bus:
        _plot(bus)


def section(results: Results, table: str) -> str:
    """A table with the conditions it was measured in, as it stands in the page."""
    return f"{_run(results)}\n\n{_figures(results, table)}"


def _with(results: Results, table: str) -> Results:
    """Those that have figures of a table."""
    return [r for r in results if any(f["table"] == table for f in r["figures"])]


def _of(results: Results, table: str) -> dict[str, dict[str, Figure]]:
    """Figures of a table: by label, then by interpreter."""
    rows: dict[str, dict[str, Figure]] = {}
    for result in results:
        for data in result["figures"]:
            if data["table"] == table:
                rows.setdefault(data["label"], {})[result["python"]] = Figure.from_dict(data)
    return rows


def _pythons(results: Results) -> list[str]:
    return list(dict.fromkeys(result["python"] for result in results))


def _number(value: float, unit: str = "") -> str:
    if abs(value) >= 1000:
        text = f"{float(f'{value:.3g}'):,.0f}"
    elif abs(value) >= 100:
        text = f"{value:.0f}"
    else:
        text = f"{value:.3g}"
    return f"{text} {unit}".strip()


def _times(spread: Spread) -> str:
    return f"{_number(spread.median)} {TIMES} ({_number(spread.low)}{TO}{_number(spread.high)})"


def _cell(figure: Figure) -> str:
    parts: list[str] = []
    if figure.ratio is not None:
        parts.append(_times(figure.ratio))
    if figure.ours is not None:
        ours = _number(figure.ours.median, figure.unit)
        if figure.ratio is None:
            ours += f" ({_number(figure.ours.low)}{TO}{_number(figure.ours.high)})"
        parts.append(ours)
    if figure.other is not None:
        parts.append(f"beside {_number(figure.other.median, figure.unit)}")
    if figure.verdict:
        parts.append(figure.verdict)
    return ", ".join(parts)


def _bound(figure: Figure) -> str:
    times = f" {TIMES}" if figure.ratio is not None else f" {figure.unit}"
    if figure.at_least is not None:
        return f"≥ {_number(figure.at_least)}{times}"
    return "" if figure.at_most is None else f"≤ {_number(figure.at_most)}{times}"


def _aim(figure: Figure) -> str:
    if figure.aim is None:
        return ""
    return f"{_number(figure.aim)} {TIMES if figure.ratio is not None else figure.unit}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    told = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell or " " for cell in row) + " |" for row in told)


def _run(results: Results) -> str:
    if not results:
        return "Not run yet."
    said = [f"Machine: {results[0]['machine']}."]
    for python in _pythons(results):
        loads = [float(value) for r in results if r["python"] == python for value in r["load"]]
        said.append(f"{python}: load average {min(loads):.2f} to {max(loads):.2f} while it ran.")
    counted = [f["ratio"]["rounds"] for r in results for f in r["figures"] if f["ratio"]]
    if counted:
        said.append(f"At least {min(counted)} pairs for each ratio.")
    if any(result["quick"] for result in results):
        said.append("**A quick run: these figures only show that the suite works.**")
    return "\n".join(said)


def _figures(results: Results, table: str) -> str:
    """A table, and below it what a reader has to know beside it."""
    pythons = _pythons(results)
    rows: list[list[str]] = []
    for label, by_python in _of(results, table).items():
        some = next(iter(by_python.values()))
        cells = [_cell(by_python[p]) if p in by_python else "not measured" for p in pythons]
        rows.append([label, _bound(some), _aim(some), *cells])
    for label, by_python in _of(results, "peers").items():
        some = next(iter(by_python.values()))
        if some.at_least is not None:
            cells = [_cell(by_python[p]) if p in by_python else "not measured" for p in pythons]
            rows.append([f"publish → handled, beside {label}", _bound(some), "", *cells])
    notes = [
        f"- {label}: {next(iter(found.values())).note}."
        for label, found in _of(results, table).items()
        if next(iter(found.values())).note
    ]
    made = _table(["measure", "must reach", "aim", *pythons], rows)
    return made + ("\n\n" + "\n".join(notes) if notes else "")


def _peers(results: Results) -> str:
    pythons = _pythons(results)
    rows: list[list[str]] = []
    for label, by_python in _of(results, "peers").items():
        cells: list[str] = []
        for python in pythons:
            figure = by_python.get(python)
            if figure is None or figure.ratio is None or figure.other is None:
                cells += ["not measured", ""]
            else:
                cells += [_number(figure.other.median, figure.unit), _times(figure.ratio)]
        rows.append([label, *cells, next(iter(by_python.values())).note])
    head = [text for python in pythons for text in (python, "ours beside it")]
    return _table(["what", *head, "what it leaves out, or runs with"], rows)


def _defaults(results: Results) -> str:
    pythons = _pythons(results)
    rows: list[list[str]] = []
    for label, by_python in _of(results, "defaults").items():
        cells: list[str] = []
        for python in pythons:
            figure = by_python.get(python)
            if figure is None or figure.ours is None or figure.ratio is None:
                cells.append("not measured")
            else:
                low, high = figure.ours.first_quartile, figure.ours.third_quartile
                cost = f"{figure.ours.median:.0f} ns ({low:.0f}{TO}{high:.0f})"
                cells.append(f"{cost}, {_number(figure.ratio.median)} {TIMES}")
        rows.append([label, *cells, next(iter(by_python.values())).note])
    return _table(["default", *pythons, "what it is for"], rows)


def _plot(results: Results) -> None:
    """The ratios of throughput with their spread, beside what has to be reached."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "eventflow", "font.size": 9})
    pythons = _pythons(results)
    rows = [
        (label, found)
        for label, found in _of(results, "figures").items()
        if any(f.ratio for f in found.values())
    ]
    peers = [
        (label, found)
        for label, found in _of(results, "peers").items()
        if any(f.ratio for f in found.values())
    ]
    fig, axes = plt.subplots(
        2,
        1,
        figsize=(9, 1.2 + 0.42 * (len(rows) + len(peers))),
        height_ratios=[max(len(rows), 1), max(len(peers), 1)],
    )
    for ax, shown, title in (
        (axes[0], rows, "ours beside what it is compared with (│: must reach)"),
        (axes[1], peers, "events/s of ours divided by theirs, 1 subscriber (log)"),
    ):
        for place, (_, found) in enumerate(shown):
            for index, python in enumerate(pythons):
                figure = found.get(python)
                if figure is None or figure.ratio is None:
                    continue
                ratio, height = figure.ratio, place + 0.22 * (index - (len(pythons) - 1) / 2)
                ax.errorbar(
                    ratio.median,
                    height,
                    xerr=[[ratio.median - ratio.low], [ratio.high - ratio.median]],
                    fmt="o",
                    color=f"C{index}",
                    capsize=2,
                    markersize=4,
                    label=python if place == 0 else None,
                )
                bound = figure.at_least if figure.at_least is not None else figure.at_most
                if bound is not None:
                    ax.plot(bound, place, "|", color="black", markersize=16)
        labels = [re.sub(r"`", "", label) for label, _ in shown]
        ax.set_yticks(range(len(shown)), labels)
        ax.invert_yaxis()
        ax.axvline(1, color="grey", linewidth=0.5)
        ax.set_title(title, fontsize=9)
        ax.grid(axis="x", alpha=0.3)
    axes[1].set_xscale("log")
    if rows:
        axes[0].legend(fontsize=8)
    fig.tight_layout()
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(PLOT, metadata={"Date": None, "Creator": None})
    plt.close(fig)
