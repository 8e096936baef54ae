"""The chart of a soak: rates, queue and memory over its minutes."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.soak.faults import LETTERS
from benchmarks.soak.watch import BIN, Soak


def draw(result: Soak, parts: Sequence[dict[str, Any]], path: Path) -> None:
    """Three panels over the minutes of the soak. The same figures give the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    settings: Any = {"svg.hashsalt": "soak", "svg.fonttype": "path", "font.size": 11, "axes.spines.top": False}
    with mpl.rc_context(settings):
        figure, (rate, queue, memory) = plt.subplots(3, 1, figsize=(10, 9), sharex=True, layout="constrained")
        minutes = [seen.at / 60 for seen in result.seen]
        published = [0.0] + [
            (later.published - earlier.published) / (later.at - earlier.at) / 1000
            for earlier, later in itertools.pairwise(result.seen)
        ]
        at = [row["at"] / 60 for row in parts]
        rate.step(minutes, published, color="#c8c8c8", linewidth=1.5, label="published")
        rate.plot(at, [row["samples"] / BIN / 1000 for row in parts], color="#1f6fb4", label="recorded by the drains")
        rate.set_ylabel("thousand samples/s")
        queued = [float("nan") if seen.queued is None else seen.queued / 1000 for seen in result.seen]
        queue.fill_between(minutes, queued, color="#f2c48d", label="queued")
        queue.set_ylabel("thousand messages queued")
        lag = queue.twinx()
        lag.plot(at, [row["lag"][1] for row in parts], color="#8e2f5c", label="lag, p99")
        lag.plot(at, [row["lag"][0] for row in parts], color="#8e2f5c", linestyle=":", label="lag, p50")
        lag.set_ylabel("seconds from publisher to ledger")
        lag.set_ylim(0, 1.2 * lag.get_ylim()[1])
        colours = {
            "drain 1": "#1f6fb4",
            "drain 2": "#7fb2dd",
            "rabbitmq": "#e07b00",
            "influxdb": "#8e2f5c",
            "clickhouse": "#c9a400",
        }
        for name, colour in colours.items():
            sizes = [seen.memory.get(name, float("nan")) for seen in result.seen]
            memory.plot(minutes, sizes, color=colour, label=name)
        memory.set_ylabel("MiB of memory")
        memory.set_xlabel(
            "minutes; servers restarted: "
            + ", ".join(f"{letter} {name}" for name, letter in LETTERS.items())
            + "; x: a drain was killed"
        )
        for axes in (rate, queue, memory):
            axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # room for the legend
            axes.margins(x=0.01)
            for mark in result.marks:
                if mark.what != "drain":
                    axes.axvspan(mark.at / 60, mark.until / 60, color="#d94c4c", alpha=0.25, linewidth=0)
        for mark in result.marks:
            letter, height, above = LETTERS.get(mark.what, "x"), 1.01, "bottom"
            if mark.what == "drain":
                height, above = -0.02, "top"
            rate.annotate(letter, (mark.at / 60, height), xycoords=("data", "axes fraction"), ha="center", va=above)
        handles = [axes.get_legend_handles_labels() for axes in (queue, lag)]
        rate.legend(loc="upper right", frameon=False, ncols=2)
        queue.legend(
            [*handles[0][0], *handles[1][0]], [*handles[0][1], *handles[1][1]], loc="upper left", frameon=False
        )
        memory.legend(loc="upper left", frameon=False, ncols=5)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
