"""What makes billing run by itself: hours and corrected agreements; neither the drains nor the hourly copies."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from ninjait_pipelines import partitions
from ninjait_pipelines.billing import assets, checks, document_checks, documents
from ninjait_pipelines.resources import stores_from
from ninjait_pipelines.settings import validate
from ninjait_pipelines_tests.nowhere import NOWHERE

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
HOURLY_NAMES = ("agreements", "device_terms")
UNPARTITIONED = ("api_calls", "usage_reports", *HOURLY_NAMES)
DEFINITIONS = dg.Definitions(
    [
        assets.billing_events,
        documents.invoices,
        dg.AssetSpec("device_metrics_hourly", partitions_def=partitions.HOURLY),
        *(dg.AssetSpec(name) for name in UNPARTITIONED),
    ],
    asset_checks=[checks.every_agreement_is_measured, document_checks.lines_add_up, document_checks.stores_agree],
    resources=stores_from(dg.EnvVar, validate(NOWHERE)).all(),
)


class Daemon:
    """Dagster's automation, a tick at a time, at a standing clock."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor = None

    def happens(self, asset: str, *keys: str | None, version: str | None = None) -> None:
        tags = {"dagster/data_version": version} if version else None
        for key in keys or (None,):
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key, tags=tags))

    def requests(self) -> tuple[list[str], list[str]]:
        """The days of billing_events and the months of invoices that this tick asks for; taken as done at once."""
        tick = dg.evaluate_automation_conditions(DEFINITIONS, self.instance, evaluation_time=NOW, cursor=self.cursor)
        self.cursor = tick.cursor
        days = sorted(tick.get_requested_partitions(assets.billing_events.key))
        months = sorted(tick.get_requested_partitions(documents.invoices.key))
        self.happens("billing_events", *days) if days else None
        self.happens("invoices", *months) if months else None
        return days, months


def hours(first: str, days: int) -> list[str]:
    start = datetime.fromisoformat(first).replace(tzinfo=UTC)
    return [(start + timedelta(hours=i)).strftime("%Y-%m-%d-%H:%M") for i in range(24 * days)]


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """Four days of hours and today's until now are there, copies and drains have run, billing has caught up."""
    with dg.DagsterInstance.ephemeral() as instance:
        daemon = Daemon(instance)
        for name in UNPARTITIONED:
            daemon.happens(name, version="1")
        daemon.happens("device_metrics_hourly", *hours("2026-11-17", 4), *hours("2026-11-21", 1)[:9])
        days, months = daemon.requests()
        # 16 and 17 November lack hours before them: installed on the 17th, they wait for a late hour or a person.
        assert days == ["2026-11-18", "2026-11-19", "2026-11-20"]
        assert months == ["2026-10-01", "2026-11-01"]
        while daemon.requests() != ([], []):
            pass
        yield daemon


def test_neither_drains_nor_unchanged_copies_ask_for_anything(daemon: Daemon) -> None:
    """Each hourly copy, and each drain of a minute, once asked for every day since the beginning."""
    for name in UNPARTITIONED:
        daemon.happens(name, version="1")
    assert daemon.requests() == ([], [])
    daemon.happens("api_calls", version="2")
    daemon.happens("usage_reports", version="2")
    assert daemon.requests() == ([], [])


def test_a_late_hour_is_followed_by_the_days_it_may_lie_in_and_their_month(daemon: Daemon) -> None:
    daemon.happens("device_metrics_hourly", "2026-11-19-12:00")
    days, months = daemon.requests()
    assert days == ["2026-11-18", "2026-11-19", "2026-11-20"]
    assert months + daemon.requests()[1] == ["2026-11-01"]
    assert daemon.requests() == ([], [])


def test_an_old_hour_is_followed_although_its_neighbours_never_were(daemon: Daemon) -> None:
    """The first day after installation waited for hours of the day before, which will never come."""
    daemon.happens("device_metrics_hourly", "2026-03-31-12:00")
    days, months = daemon.requests()
    assert days == ["2026-03-30", "2026-03-31", "2026-04-01"]
    assert months + daemon.requests()[1] == ["2026-03-01", "2026-04-01"]


@pytest.mark.parametrize("name", HOURLY_NAMES)
def test_a_changed_agreement_or_device_is_followed_for_two_months(daemon: Daemon, name: str) -> None:
    daemon.happens("billing_events", "2026-03-31")
    daemon.requests()
    daemon.happens(name, version="2")
    days, months = daemon.requests()
    assert days == ["2026-11-18", "2026-11-19", "2026-11-20"]
    assert months == ["2026-10-01", "2026-11-01"]
    daemon.happens(name, version="2")
    assert daemon.requests()[0] == []
    assert daemon.requests() == ([], [])


def test_the_running_day_and_month_are_followed_hour_by_hour(daemon: Daemon) -> None:
    """In Los Angeles 20 November ends at 08:00 UTC on the 21st."""
    daemon.happens("device_metrics_hourly", "2026-11-21-08:00")
    days, months = daemon.requests()
    assert days == ["2026-11-20"]
    assert months + daemon.requests()[1] == ["2026-11-01"]
