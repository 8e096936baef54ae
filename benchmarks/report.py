"""What was measured, as a table for a person, JSON for a script, and a page and a chart for docs."""

import json
import os
import platform
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil
from rich.console import Console
from rich.table import Table

from ninjait_pipelines.local.stack import servers
from ninjait_pipelines.paths import ROOT

PAGE, CHART = ROOT / "docs" / "performance.md", ROOT / "docs" / "performance.svg"
BEGIN, END = "<!-- figures: written by `ninjait bench --write-docs` -->", "<!-- end of figures -->"
PACKAGES = ("ninjait-pipelines", "pika", "msgspec", "google-re2", "pyarrow", "isal", "influxdb-client")
HEADERS = (
    "work",
    "ours, median (least to most)",
    "peer, median (least to most)",
    "ratio",
    "at least",
    "aim",
    "reached",
)
TOP = 10


class Scale(msgspec.Struct, frozen=True):
    """How the ratio of ours to the peer is shown; `of` is its own inverse. `lower` is better or not."""

    of: Callable[[float], float]
    text: str
    digits: int
    lower: bool = False


FACTOR = Scale(lambda ratio: ratio, "{:.2f}x", 2)
COST = Scale(lambda ratio: 1 - ratio, "{:.1%}", 3, lower=True)
GROWTH = Scale(lambda ratio: 1 / ratio, "{:.2f}x", 2, lower=True)


class Row(msgspec.Struct, frozen=True):
    """A row of the table: two contests compared, and what the ratio is to be at least and at best."""

    name: str
    work: str
    ours: str
    peers: tuple[str, ...]
    bound: float | None = None
    aim: float | None = None
    scale: Scale = FACTOR


class Figures(msgspec.Struct):
    """What the rounds of one contest gave, and what went wrong in those that gave nothing."""

    values: list[float] = []
    problems: list[str] = []

    def shown(self) -> str:
        median = statistics.median(self.values)
        return f"{median:,.0f} ({min(self.values):,.0f} to {max(self.values):,.0f})"


class Line(msgspec.Struct, frozen=True):
    """A row with its outcome; the ratio is as the row's scale shows it, with that of the single rounds."""

    row: Row
    ours: Figures
    peer: Figures
    peer_name: str
    ratio: float | None
    of_rounds: list[float]

    @classmethod
    def of(cls, row: Row, figures: dict[str, Figures]) -> "Line":
        """The fastest peer counts; a row in which a run failed has no ratio."""
        ours = figures[row.ours]
        peers = {name: figures[name] for name in row.peers}
        if any(one.problems for one in (ours, *peers.values())):
            return cls(row, ours, next(iter(peers.values())), row.peers[0], None, [])
        name, peer = max(peers.items(), key=lambda item: statistics.median(item[1].values))
        ratio = statistics.median(ours.values) / statistics.median(peer.values)
        of_rounds = [mine / theirs for mine, theirs in zip(ours.values, peer.values, strict=True)]
        rounded = [round(row.scale.of(one), row.scale.digits) for one in (ratio, *of_rounds)]
        return cls(row, ours, peer, name, rounded[0], rounded[1:])

    def reached(self) -> str:
        if self.ratio is None:
            return "failed"
        if self.row.bound is None or self.row.aim is None:
            return ""
        sign = -1 if self.row.scale.lower else 1
        if self.ratio * sign >= self.row.aim * sign:
            return "aim"
        return "bound" if self.ratio * sign >= self.row.bound * sign else "no"

    def cells(self) -> tuple[str, ...]:
        text = self.row.scale.text.format
        if self.ratio is None:
            return (self.row.work, "", "", "", "", "", "failed")
        wanted = ("" if value is None else text(value) for value in (self.row.bound, self.row.aim))
        ratio = f"{text(self.ratio)} ({text(min(self.of_rounds))} to {text(max(self.of_rounds))})"
        return (
            self.row.work,
            self.ours.shown(),
            f"{self.peer_name}: {self.peer.shown()}",
            ratio,
            *wanted,
            self.reached(),
        )


class Result(msgspec.Struct, frozen=True):
    """All of it."""

    lines: list[Line]
    figures: dict[str, Figures]
    about: dict[str, str]

    @classmethod
    def of(
        cls, rows: Sequence[Row], figures: dict[str, Figures], rounds: int, quick: bool, engines: dict[str, str]
    ) -> "Result":
        """The rows, with what is known of the machine and the versions."""
        programs = [engines[name] for name in ("rabbitmq", "influxdb")]
        programs.append(f"Telegraf {servers.version(servers.SERVERS, 'telegraf')}")
        of = f"{rounds}, at {'a quarter of the' if quick else 'full'} size"
        return cls([Line.of(row, figures) for row in rows], figures, about(programs, PACKAGES) | {"rounds": of})

    def print(self, console: Console) -> None:
        """A table, and below it what every contest gave."""
        table = Table(title="samples, lines or messages a second; MiB of memory", title_justify="left")
        for header in HEADERS:
            table.add_column(header, justify="left" if header in ("work", "reached") else "right")
        for line in self.lines:
            table.add_row(*line.cells())
        console.print(table)
        for name, one in self.figures.items():
            console.print(f"{name}: {', '.join(f'{value:,.0f}' for value in one.values)}")
            for problem in one.problems:
                console.print(f"  failed: {problem}", style="red")
        for name, text in self.about.items():
            console.print(f"{name}: {text}")

    def write_json(self, file: str) -> None:
        """Writes to a file, or to standard output for `-`."""
        rows = [
            {
                "name": line.row.name,
                "work": line.row.work,
                "ours": {"contest": line.row.ours, **_summary(line.ours)},
                "peer": {"contest": line.peer_name, **_summary(line.peer)},
                "ratio": line.ratio,
                "ratio_of_rounds": line.of_rounds,
                "bound": line.row.bound,
                "aim": line.row.aim,
                "reached": line.reached(),
            }
            for line in self.lines
        ]
        text = json.dumps(self.about | {"rows": rows, "contests": msgspec.to_builtins(self.figures)}, indent=2) + "\n"
        if file == "-":
            sys.stdout.write(text)
        else:
            Path(file).write_text(text)

    def write_docs(self) -> None:
        """The table between its marks in docs/performance.md, and the chart beside it."""
        if any(line.ratio is None for line in self.lines):
            raise SystemExit("docs/performance.md was not written: a run failed.")
        write_page(BEGIN, self.about, HEADERS, [line.cells() for line in self.lines], "Ours against the peers", CHART)
        draw(self.lines, CHART)


def about(programs: Sequence[str], packages: Sequence[str]) -> dict[str, str]:
    """Day, machine and versions of a run."""
    memory = psutil.virtual_memory().total / (1 << 30)
    versions = [*programs, f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "versions": ", ".join(versions),
    }


def write_page(
    begin: str,
    about: Mapping[str, str],
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str,
    chart: Path,
    page: Path = PAGE,
) -> None:
    """The table and a reference to its chart into the page, from the mark `begin` to the next end mark."""
    table = "\n".join(f"| {' | '.join(row)} |" for row in [headers, ("---",) * len(headers), *rows])
    run = "\n".join(f"- {name}: {text}" for name, text in about.items())
    before, found, rest = page.read_text().partition(begin)
    if not found:
        raise SystemExit(f"{page.parent.name}/{page.name} has no mark {begin}")
    after = rest.partition(END)[2]
    page.write_text(f"{before}{begin}\n\n{run}\n\n{table}\n\n![{title}]({chart.name})\n\n{END}{after}")


def draw(lines: Sequence[Line], file: Path) -> None:
    """A bar a row: ours against the peer, where longer is better, with what it is to be at least and at best."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    lines = [line for line in lines if line.ratio is not None][::-1]
    colours = {"aim": "#2e7d32", "bound": "#7cb342", "no": "#c62828", "": "#90a4ae"}
    with mpl.rc_context({"svg.hashsalt": "performance", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(9, 0.42 * len(lines) + 1.3), layout="constrained")
        for place, line in enumerate(lines):
            of = line.row.scale.of
            ratio = of(line.ratio)  # type: ignore[arg-type]
            axes.barh(place, ratio, color=colours[line.reached()], height=0.6)
            shown = line.row.scale.text.format(line.ratio)
            behind = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.annotate(
                shown, (ratio, place), xytext=(5, 0), textcoords="offset points", va="center", bbox=behind, zorder=5
            )
            for wanted, style in ((line.row.bound, "-"), (line.row.aim, ":")):
                if wanted is not None:
                    axes.plot([of(wanted)] * 2, [place - 0.4, place + 0.4], color="black", linestyle=style)
        axes.set_xscale("log")
        axes.set_xlim(0.2, max(30.0, *(2 * line.row.scale.of(line.ratio or 1) for line in lines)))
        axes.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16], ["1/4", "1/2", "1", "2", "4", "8", "16"], minor=False)
        axes.minorticks_off()
        axes.set_yticks(range(len(lines)), [line.row.work for line in lines])
        axes.set_xlabel("ours against the peer, longer is better; line: at least, dots: aim")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)


def print_profile(console: Console, work: str, stacks: Path) -> None:
    """The places of the drain where threads were found most often; `stacks` has what py-spy's raw format says."""
    found: Counter[str] = Counter()
    for line in stacks.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if "_find_and_load" not in stack and (place := _place(stack)):
            found[place] += int(count)
    table = Table(title=f"{work}: where threads were found, {found.total()} times")
    table.add_column("share", justify="right")
    table.add_column("thread: place > what it calls")
    for place, count in found.most_common(TOP):
        table.add_row(f"{count / found.total():.1%}", place)
    console.print(table)


def _place(stack: str) -> str:
    """The innermost of our functions, and the library function that it waits for; empty where none is ours."""
    thread, *frames = stack.split(";")
    ours = next((frame for frame in reversed(frames) if "(ninjait_pipelines/" in frame), "")
    if not ours:
        return ""
    names = [frame.partition(" (")[0] for frame in (ours, *frames[-1:])]
    module = Path(ours.partition("(")[2].partition(":")[0].rstrip(")")).stem
    inner = f" > {names[1]}" if frames[-1] != ours else ""
    return f"{thread.partition(': ')[2]}: {module}.{names[0]}{inner}"


def _summary(figures: Figures) -> dict[str, float]:
    if not figures.values:
        return {}
    return {"median": statistics.median(figures.values), "min": min(figures.values), "max": max(figures.values)}


def _processor() -> str:
    """Linux's name of it."""
    with Path("/proc/cpuinfo").open() as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return names[0] if names else platform.machine()
