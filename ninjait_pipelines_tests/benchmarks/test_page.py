"""The table in docs is written between its marks, and the chart shows what was measured at several sizes."""

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.marts import page
from benchmarks.marts.figure import figure

FIGURES = [
    figure("archive", "a day", [2.0], "a write", [1.0], bound=2.5, aim=2.0, size=1_000),
    figure("archive", "a day", [24.0], "a write", [10.0], bound=2.5, aim=2.0, size=10_000),
    figure("read", "a day", [3.0], "a read", [1.0], bound=2.5, aim=2.0),
]


@pytest.fixture
def written(tmp_path: Path) -> str:
    file = tmp_path / "performance.md"
    file.write_text(f"before\n{page.BEGIN}\nold figures\n{report.END}\nafter\n{report.END}\n")
    page.write_docs(FIGURES, 5, file)
    return file.read_text()


def test_the_table_replaces_what_was_between_its_marks(written: str) -> None:
    assert written.startswith(f"before\n{page.BEGIN}\n")
    assert written.endswith(f"{report.END}\nafter\n{report.END}\n")
    assert "old figures" not in written
    assert "| archive | a day | 2 s (2 to 2) | a write: 1 s | 2x | 2.5 | 2 | aim |" in written
    assert "| 2.4x | 2.5 | 2 | bound |" in written
    assert "| 3x | 2.5 | 2 | no |" in written


@pytest.mark.usefixtures("written")
def test_only_what_has_several_sizes_is_a_bar_of_the_chart(tmp_path: Path) -> None:
    chart = (tmp_path / page.CHART).read_text()
    assert "archive: 12x at 10x" in chart
    assert "read: " not in chart


def test_a_page_without_the_mark_is_not_written(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    file.write_text("no marks")
    with pytest.raises(SystemExit, match=f"{tmp_path.name}/performance.md has no mark"):
        page.write_docs(FIGURES, 5, file)
    assert file.read_text() == "no marks"
