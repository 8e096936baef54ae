"""What was measured after ingest, as a table for a person, and as a page and a chart for docs."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table

from benchmarks.marts.figure import Figure
from benchmarks.report import PAGE, about, write_page
from ninjait_pipelines.local.stack import servers

CHART = "growth.svg"
BEGIN = "<!-- figures after ingest: written by `python -m benchmarks.marts --write-docs` -->"
PROGRAMS = ("influxd", "versitygw")
PACKAGES = ("ninjait-pipelines", "dagster", "chdb", "clickhouse-connect", "pyarrow", "polars", "psycopg")
HEADERS = ("name", "work", "ours (least to most)", "limit", "ratio", "bound", "aim", "reached")


def table(figures: Iterable[Figure], rounds: int) -> Table:
    """A table for the terminal."""
    shown = Table(title=f"medians of {rounds}")
    for header in HEADERS:
        shown.add_column(header, overflow="fold")
    for one in figures:
        shown.add_row(*_cells(one))
    return shown


def write_docs(figures: Sequence[Figure], rounds: int, page: Path = PAGE) -> None:
    """The table between its marks in the page, and the chart beside it."""
    programs = [f"{name} {servers.version(servers.SERVERS, name)}" for name in PROGRAMS]
    chart = page.with_name(CHART)
    run = about(programs, PACKAGES) | {"rounds": str(rounds)}
    write_page(BEGIN, run, HEADERS, [_cells(one) for one in figures], "How cost grows with size", chart, page)
    draw(figures, chart)


def _cells(one: Figure) -> tuple[str, ...]:
    limit = f"{one.limit_name}: {_number(one.limit)} {one.unit}" if one.limit is not None else one.limit_name
    ours = f"{_number(one.ours)} {one.unit} ({_number(one.least)} to {_number(one.most)})"
    return (one.name, one.work, ours, limit, _number(one.ratio, "x"), _number(one.bound), _number(one.aim), _met(one))


def _met(one: Figure) -> str:
    if one.reached and one.aim is not None and one.reaches(one.aim):
        return "aim"
    return {True: "bound", False: "no", None: ""}[one.reached]


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    return f"{value:,.0f}{unit}" if value >= 100 else f"{value:.3g}{unit}"


def draw(figures: Iterable[Figure], file: Path) -> None:
    """A bar per work that was measured at several sizes: the power of its size with which its cost grows from the
    smallest to the largest, 0 for none and 1 for as fast as its size."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    costs: dict[str, dict[int, float]] = defaultdict(dict)
    for one in figures:
        if one.size:
            costs[one.name][one.size] = one.ours
    found = [(_growth(of), name) for name, of in costs.items() if len(of) > 1]
    with mpl.rc_context({"svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(9, 0.28 * len(found) + 1.2), layout="constrained")
        for place, ((power, label), name) in enumerate(sorted(found, reverse=True)):
            axes.barh(place, max(power, 0.0), color="#90a4ae", height=0.6)
            axes.annotate(f"{name}: {label}", (0, place), xytext=(4, 0), textcoords="offset points", va="center")
        axes.axvline(1, linestyle=":", color="black")
        axes.set_xlim(0, 1.1)
        axes.set_xticks([0, 0.5, 1], ["not at all", "as the square root", "as its size"])
        axes.set_yticks([])
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)


def _growth(costs: dict[int, float]) -> tuple[float, str]:
    """The power, and the same in numbers."""
    least, most = min(costs), max(costs)
    size, cost = most / least, costs[most] / costs[least]
    return math.log(cost) / math.log(size), f"{cost:.2g}x at {size:.2g}x"
