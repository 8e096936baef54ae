"""The checks of measured days fail where an agreement or a quantity is lost."""

import pytest

from ninjait_pipelines.billing import assets, checks
from ninjait_pipelines.billing.local_time import DAY
from ninjait_pipelines_tests.billing.conftest import Platform, small, today
from ninjait_pipelines_tests.rollup.data import check as check_alone
from ninjait_pipelines_tests.runs import faulty, passed, run

KEY = (today() - 3 * DAY).isoformat()


def test_the_check_fails_when_an_item_is_lost(platform: Platform) -> None:
    small(platform)
    check = checks.every_agreement_is_measured
    result = run(faulty(platform.stores), assets.billing_events, check, key=KEY, fails=True)
    assert passed(result) == {"every_agreement_is_measured": False}


@pytest.mark.parametrize("change", ["api_calls_versions", "usage_reports_versions", "device_metrics_hourly_versions"])
def test_a_day_that_no_longer_is_what_its_sources_say_fails(platform: Platform, change: str) -> None:
    small(platform)
    check = checks.past_days_are_measured
    assert passed(run(platform.stores, assets.billing_events, check, key=KEY)) == {"past_days_are_measured": True}
    platform.stores.clickhouse.command(f"TRUNCATE TABLE {change}")
    found = check_alone(platform.stores, [assets.billing_events], [check], KEY)["past_days_are_measured"]
    assert not found.passed
    assert "billed" in str(found.description)
