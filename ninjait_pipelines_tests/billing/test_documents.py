"""The asset of documents runs in Dagster; issuing them is a job that nothing starts until a person says so."""

from datetime import UTC, date, datetime

import dagster as dg
import pytest

from ninjait_pipelines.billing.document_checks import all_document_checks, invoices_left_nothing_out
from ninjait_pipelines.billing.documents import finalise_invoices, finalise_monthly, invoices, last_month
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.billing.books import Books, named
from ninjait_pipelines_tests.billing.rating.agreements import item
from ninjait_pipelines_tests.runs import empty_instance, left_out, passed, run


def test_a_range_of_months_is_its_months(shared_stores: Stores) -> None:
    books = Books(shared_stores)
    books.agreement(books.organization("acme"), item("flat", "1"))
    result = run(shared_stores, invoices, *all_document_checks, span=("2026-05-01", "2026-07-01"))
    assert all(passed(result).values())
    found = shared_stores.clickhouse.rows("SELECT period_starts_on, total FROM invoices ORDER BY 1")
    assert [(str(row["period_starts_on"]), row["total"]) for row in found] == [
        ("2026-05-01", 1),
        ("2026-06-01", 1),
        ("2026-07-01", 1),
    ]


def test_what_cannot_be_drawn_up_is_named_by_the_check(shared_stores: Stores) -> None:
    """Nothing that a column could not hold is written: 10^15 of a price below it."""
    books = Books(shared_stores)
    books.agreement(books.organization("good"), item("flat", "1"))
    bad = books.organization("bad")
    books.agreement(bad, item("flat", "900000000000000", quantity="900000000000000"))
    result = run(shared_stores, invoices, invoices_left_nothing_out, key="2026-05-01")
    said = left_out(result, "invoices")
    assert said.startswith(f"organization {bad}, agreement {named(bad, 'agreement')} (Refused")
    assert shared_stores.clickhouse.scalar("SELECT count() FROM invoices") == 1


def test_the_job_issues_the_month_that_is_over(shared_stores: Stores) -> None:
    books = Books(shared_stores)
    books.seller()
    books.agreement(books.organization("acme"), item("flat", "1"))
    config = {"ops": {"issue_documents": {"config": {"period": "2026-05"}}}}
    with empty_instance() as instance:
        for _ in range(2):
            assert finalise_invoices.execute_in_process(
                run_config=config,
                resources={"postgres": shared_stores.postgres, "clickhouse": shared_stores.clickhouse},
                instance=instance,
            ).success
    found = shared_stores.clickhouse.rows("SELECT period_starts_on, number, status FROM invoices")
    assert [(row["number"][4:], row["status"]) for row in found] == [("-000001", "issued")]


@pytest.mark.parametrize(
    ("now", "month"),
    [("2026-06-04", "2026-05-01"), ("2026-06-03", "2026-04-01"), ("2026-01-20", "2025-12-01")],
)
def test_the_month_that_is_over(now: str, month: str) -> None:
    assert last_month(datetime.fromisoformat(now).replace(tzinfo=UTC)) == date.fromisoformat(month)


def test_the_schedule_is_off_and_asks_for_the_month_that_is_over_everywhere() -> None:
    """At Honolulu's end of the month, ten hours later, too."""
    assert finalise_monthly.default_status == dg.DefaultScheduleStatus.STOPPED
    context = dg.build_schedule_context(scheduled_execution_time=datetime(2026, 6, 5, 6, 30, tzinfo=UTC))
    request = finalise_monthly(context)
    assert isinstance(request, dg.RunRequest)
    assert request.run_config == {"ops": {"issue_documents": {"config": {"period": "2026-05"}}}}
