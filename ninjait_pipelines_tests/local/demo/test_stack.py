"""The demo's first lines, and that partitions begin on the day that it sets."""

import io
import subprocess
import sys
from datetime import date

import pytest
from rich.console import Console

from ninjait_pipelines.local.demo.stack import first_day, step


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def printed(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_step_is_a_line_with_its_result_and_seconds(console: Console) -> None:
    seconds: dict[str, float] = {}
    with step(console, seconds, "publish") as say:
        say("3 messages,")
        say("2 samples")
    with step(console, seconds, "drain"):
        pass
    first, second = (line.split() for line in printed(console).splitlines())
    assert first == ["\u2713", "publish", f"{seconds['publish']:.1f}", "s", "3", "messages,", "2", "samples"]
    assert second == ["\u2713", "drain", f"{seconds['drain']:.1f}", "s"]


def test_a_step_that_fails_is_not_called_done(console: Console) -> None:
    seconds: dict[str, float] = {}
    with pytest.raises(RuntimeError, match="no room"), step(console, seconds, "publish"):
        raise RuntimeError("no room")
    assert (printed(console), seconds) == ("", {})


def test_partitions_begin_on_the_demo_s_oldest_day() -> None:
    """It is older than the 5-minute tier keeps, 90 days, and the 1-hour tier has it."""
    assert first_day(date(2026, 6, 12)) == date(2026, 3, 4)


@pytest.mark.engines
def test_nothing_that_the_demo_begins_with_imports_partitions() -> None:
    """They read PIPELINE_START when they are imported, and it is set only once the stack is up."""
    code = "import sys, ninjait_pipelines.cli, ninjait_pipelines.local.demo.stack as stack\n"
    code += "print('ninjait_pipelines.partitions' in sys.modules, 'ninjait_pipelines.local.demo.stack' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
