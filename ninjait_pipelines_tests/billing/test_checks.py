"""The checks of measured days fail where an organization is lost."""

from ninjait_pipelines.billing import assets, checks
from ninjait_pipelines.billing.local_time import DAY
from ninjait_pipelines_tests.billing.conftest import Platform, small, today
from ninjait_pipelines_tests.runs import faulty, passed, run


def test_the_check_fails_when_an_organization_is_lost(platform: Platform) -> None:
    small(platform)
    key = (today() - 3 * DAY).isoformat()
    result = run(faulty(platform.stores), assets.billing_events, checks.every_contract_is_measured, key=key, fails=True)
    assert passed(result) == {"every_contract_is_measured": False}
