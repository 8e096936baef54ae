"""The checks of billing fail where a cent, an invoice or an organization is lost."""

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from ninjait_pipelines.billing import assets, checks
from ninjait_pipelines.billing.local_time import DAY
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.resources.clickhouse_schema import mart_rows
from ninjait_pipelines_tests.billing.conftest import (
    CHECKS,
    KEY,
    Platform,
    everything,
    small,
    today,
)
from ninjait_pipelines_tests.runs import faulty, passed, run


def test_no_contract_no_invoice_and_the_checks_pass(shared_stores: Stores) -> None:
    assert all(passed(run(shared_stores, assets.invoices, *CHECKS, key=KEY)).values())
    assert not any(everything(shared_stores).values())


def _wrong_total(table: str, rows: pa.Table) -> pa.Table:
    if table != "invoices":
        return rows
    return mart_rows(table, [{**row, "total": row["total"] + Decimal("0.01")} for row in rows.to_pylist()])


def _lost_invoice(table: str, rows: pa.Table) -> pa.Table:
    return rows.slice(1) if table == "invoices" else rows


def _lost_line(table: str, rows: pa.Table) -> pa.Table:
    return rows.slice(1) if table == "invoice_lines" else rows


def test_both_checks_fail_when_clickhouse_is_a_cent_off_or_a_row_short(month: Platform) -> None:
    for fault in (_wrong_total, _lost_invoice, _lost_line):
        result = run(faulty(month.stores, fault), assets.invoices, *CHECKS, key=KEY, fails=True)
        assert passed(result) == {"lines_add_up": False, "stores_agree": False}, fault


def test_lines_add_up_fails_when_both_stores_are_equally_wrong(
    month: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> Any:
        drafts = real(*arguments)
        return [drafts[0]._replace(total=drafts[0].total - Decimal("0.01")), *drafts[1:]]

    real = assets.invoices_of_month
    monkeypatch.setattr(assets, "invoices_of_month", wrong)
    result = run(month.stores, assets.invoices, *CHECKS, key=KEY, fails=True)
    assert passed(result) == {"lines_add_up": False, "stores_agree": True}


def test_the_check_fails_when_an_organization_is_lost(platform: Platform) -> None:
    small(platform)
    key = (today() - 3 * DAY).isoformat()
    result = run(faulty(platform.stores), assets.billing_events, checks.every_contract_is_measured, key=key, fails=True)
    assert passed(result) == {"every_contract_is_measured": False}
