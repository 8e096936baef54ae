"""What was measured after ingest, as a table for a person, and as a page and a chart for docs."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Table

from benchmarks.marts.figure import Figure
from benchmarks.report import PAGE, about, write_page
from ninjait_pipelines.local.stack import servers

CHART = PAGE.with_name("growth.svg")
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


def write_docs(figures: Sequence[Figure], rounds: int) -> None:
    """The table between its marks in docs/performance.md, and the chart beside it."""
    programs = [f"{name} {servers.version(servers.SERVERS, name)}" for name in PROGRAMS]
    run = about(programs, PACKAGES) | {"rounds": str(rounds)}
    write_page(BEGIN, run, HEADERS, [_cells(one) for one in figures], "Cost against size", CHART)
    draw(figures, CHART)


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
    """A line per work that was measured at several sizes: its cost at each, as a multiple of that at the smallest.

    Dotted: what grows as its size does.
    """
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    lines: dict[str, dict[int, float]] = defaultdict(dict)
    for one in figures:
        if one.size:
            lines[one.name][one.size] = one.ours
    with mpl.rc_context({"svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
        most = 1.0
        for name, costs in sorted(lines.items()):
            if len(costs) > 1:
                least = min(costs)
                sizes = [size / least for size in sorted(costs)]
                most = max(most, *sizes)
                grown = [costs[size] / costs[least] for size in sorted(costs)]
                axes.plot(sizes, grown, marker="o", label=f"{name} ({grown[-1]:.2g}x at {sizes[-1]:.0f}x)")
        axes.plot([1, most], [1, most], linestyle=":", color="black", label="as its size")
        axes.set(xscale="log", yscale="log", xlabel="size, as a multiple of the smallest", ylabel="cost, likewise")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)
