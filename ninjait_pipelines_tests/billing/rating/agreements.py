"""Agreements and usage as JSON, with as little as a test needs to say."""

import json
from datetime import date, timedelta
from typing import Any

from ninjait_pipelines.billing.rating.agreement import Agreement, agreement
from ninjait_pipelines.billing.rating.document import Document, Issued, draft
from ninjait_pipelines.billing.rating.usage import Usage, usage


def agreed(*items: dict[str, Any], **more: Any) -> Agreement:
    """An agreement in EUR and UTC from 2020 on, with these items."""
    given = {
        "id": "A-1",
        "organization_id": "acme",
        "currency": "EUR",
        "time_zone": "UTC",
        "term": {"from": "2020-01-01"},
        "items": [{"from": "2020-01-01", **item} for item in items],
    }
    return agreement(json.dumps(given | more).encode())


def priced(amount: str | None = None, **more: Any) -> dict[str, Any]:
    """A price from 2020 on."""
    return {"version": 1, "from": "2020-01-01", **({"amount": amount} if amount else {}), **more}


def item(kind: str, amount: str | None = None, price: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """An item whose product is called as its kind."""
    return {"product": kind, "kind": kind, "prices": [priced(**{"amount": amount, **(price or {})})], **more}


def used(**given: Any) -> Usage:
    return usage([json.dumps(given).encode()])


def devices(count: int, prefix: str = "d", **more: Any) -> list[dict[str, Any]]:
    return [{"device_id": f"{prefix}{number}", **more} for number in range(count)]


def bill(terms: Agreement, month: str, *issued: Document, **given: Any) -> Document:
    """The month's draft."""
    return draft(terms, used(**given), date.fromisoformat(f"{month}-01"), [Issued(one) for one in issued])


def days(first: str, count: int) -> list[str]:
    return [str(date.fromisoformat(first) + timedelta(days=number)) for number in range(count)]
