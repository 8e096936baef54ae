"""What a figure says of the values that it is made from."""

import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.marts.figure import cost, figure, in_turn


@pytest.mark.parametrize(("bound", "reached"), [(2.0, True), (1.9, False), (None, None)])
def test_the_ratio_is_that_of_the_medians(bound: float | None, reached: bool | None) -> None:
    found = figure("x", "work", [4.0, 9.0, 3.0], "limit", [1.0, 2.0, 7.0], bound=bound)
    assert (found.ours, found.least, found.most, found.limit, found.ratio) == (4.0, 3.0, 9.0, 2.0, 2.0)
    assert found.reached is reached


def test_without_a_limit_the_bound_is_of_ours() -> None:
    assert figure("x", "work", [2.0], bound=2.5).reached
    assert not figure("x", "work", [2.0], bound=2.5, at_least=True).reached


def test_calls_alternate_and_the_first_round_does_not_count() -> None:
    called: list[str] = []
    found = in_turn(2, {"a": lambda: called.append("a"), "b": lambda: called.append("b")})
    assert called == ["a", "b"] * 3
    assert {name: len(costs) for name, costs in found.items()} == {"a": 2, "b": 2}


def test_processor_time_is_counted() -> None:
    spent = cost(lambda: sum(range(3_000_000)))
    assert spent.cpu > 0
    assert spent.servers == 0


def test_a_server_that_this_process_started_is_counted_once() -> None:
    """The engines are children of the benchmark: what they used counted as theirs and as ours."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            spent = cost(lambda: time.sleep(1), [psutil.Process(busy.pid)])
        finally:
            busy.kill()
    assert spent.servers > 0.1 > spent.cpu
