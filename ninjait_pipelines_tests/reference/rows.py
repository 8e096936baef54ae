"""A row of each reference table, and the assets that copy them."""

import json
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal

from ninjait_pipelines.billing.agreements import enter
from ninjait_pipelines.billing.rating.agreement import agreement
from ninjait_pipelines.reference import assets
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.runs import add

ALL = tuple(assets.COPIES)


CHECKS = tuple(assets.row_counts)


SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def organization(slug: str) -> dict[str, object]:
    return {"id": uuid.uuid4(), "name": slug.title(), "slug": slug, "time_zone": "Asia/Kolkata", "created_at": SINCE}


def add_one_of_each(stores: Stores) -> None:
    """An organization with a user, a device, which gets its term, a contract and an agreement."""
    one = organization("one")
    plan = {"id": uuid.uuid4(), "version": 2, "name": "Plus", "currency": "EUR", "published_at": SINCE}
    prices = ("base_fee", "device_month_price", "storage_gb_month_price", "backup_gb_month_price")
    plan |= dict.fromkeys((*prices, "api_calls_included", "api_calls_thousand_price"), Decimal(1))
    mine = {"id": uuid.uuid4(), "organization_id": one["id"]}
    add(stores, "organizations", [one])
    add(stores, "users", [{**mine, "email": "a@one", "full_name": "A", "role": "owner", "created_at": SINCE}])
    add(
        stores,
        "devices",
        [{**mine, "name": "srv", "kind": "server", "os_version": "Debian 12", "created_at": SINCE}],
    )
    add(stores, "price_plans", [plan])
    terms = {"price_plan_id": plan["id"], "price_plan_version": 2, "starts_on": date(2026, 1, 1), "ends_on": None}
    add(stores, "contracts", [{**mine, **terms}])
    fee = {"product": "fee", "kind": "flat", "from": "2026-01-01"}
    fee |= {"prices": [{"version": 1, "from": "2026-01-01", "published_at": "2026-01-01T00:00:00Z", "amount": "1"}]}
    agreed = {"id": str(mine["id"]), "organization_id": str(one["id"]), "currency": "EUR", "time_zone": "Asia/Kolkata"}
    with stores.postgres.transaction() as connection:
        enter(connection, agreement(json.dumps({**agreed, "term": {"from": "2026-01-01"}, "items": [fee]}).encode()))
