"""A row of each reference table, and the assets that copy them."""

import uuid
from datetime import UTC, date, datetime

from psycopg.types.range import DateRange

from ninjait_pipelines.reference import assets
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.runs import add

ALL = tuple(assets.COPIES)


CHECKS = tuple(assets.row_counts)


SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def organization(slug: str) -> dict[str, object]:
    return {"id": uuid.uuid4(), "name": slug.title(), "slug": slug, "time_zone": "Asia/Kolkata", "created_at": SINCE}


def add_one_of_each(stores: Stores) -> None:
    """An organization with a user, a device, which gets its term, and an agreement on a plan."""
    one = organization("one")
    mine = {"id": uuid.uuid4(), "organization_id": one["id"]}
    add(stores, "organizations", [one])
    add(stores, "users", [{**mine, "email": "a@one", "full_name": "A", "role": "owner", "created_at": SINCE}])
    add(
        stores,
        "devices",
        [{**mine, "name": "srv", "kind": "server", "os_version": "Debian 12", "created_at": SINCE}],
    )
    agreed = {**mine, "currency": "USD", "time_zone": "Asia/Kolkata", "term": DateRange(date(2026, 1, 1))}
    add(stores, "billing.agreements", [agreed])
    with stores.postgres.transaction() as connection:
        connection.execute("SELECT billing.subscribe(%s, 'standard', %s)", (mine["id"], agreed["term"]))
