"""Cases with lines computed by hand: an agreement and usage as `ninjait billing rate` takes them.

Ids of organizations, agreements and items are UUIDs, so that the pipeline's document has the same bytes as rate's.
"""

import calendar
import json
import uuid
from collections.abc import Mapping
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

from ninjait_pipelines.billing.rating.agreement import Agreement, agreement
from ninjait_pipelines.billing.rating.usage import Usage, usage

ANOTHER = str(uuid.UUID(int=18))


class Case(NamedTuple):
    """A month of an agreement; `lines` are product, first day and amount, as they stand on the document."""

    name: str
    month: str
    items: list[dict[str, Any]]
    usage: dict[str, Any]
    lines: list[tuple[str, str, str]]
    more: Mapping[str, Any] = MappingProxyType({})

    @property
    def first(self) -> date:
        return date.fromisoformat(f"{self.month}-01")

    @property
    def organization(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.name))

    def agreement(self) -> Agreement:
        agreement_id = str(uuid.uuid5(uuid.NAMESPACE_URL, self.name))
        given = {"id": agreement_id, "organization_id": self.organization, "currency": "EUR"}
        items = [
            {"from": "2024-01-01", "id": str(uuid.uuid5(uuid.UUID(agreement_id), str(number))), **one}
            for number, one in enumerate(self.items, 1)
        ]
        return agreement(
            json.dumps(
                given | {"time_zone": "UTC", "term": {"from": "2024-01-01"}, "items": items} | dict(self.more)
            ).encode()
        )

    def used(self) -> Usage:
        return usage([json.dumps(self.usage).encode()])


def price(amount: str | None = None, since: str = "2024-01-01", version: int = 1, **more: Any) -> dict[str, Any]:
    found = {"version": version, "from": since, "published_at": "2023-12-01T00:00:00Z", **more}
    return found | ({"amount": amount} if amount else {})


def item(kind: str, amount: str = "", **more: Any) -> dict[str, Any]:
    """An item whose product is called as its kind."""
    return {"product": kind, "kind": kind, "prices": [price(amount)], **more}


def devices(count: int, prefix: str = "d", **more: Any) -> list[dict[str, Any]]:
    return [{"device_id": f"{prefix}{number}", **more} for number in range(count)]


def days(first: str, count: int) -> list[str]:
    return [str(date.fromisoformat(first) + timedelta(days=number)) for number in range(count)]


def reported(device: str, *at: str) -> dict[str, Any]:
    return {"device_id": device, "at": list(at)}


def calls(*stamps: str, status: int = 200, id_: str | None = None) -> list[dict[str, Any]]:
    """Calls at these times; with an id, attempts of one."""
    return [{"id": id_ or f"call {at} {n}", "timestamp": at, "status_code": status} for n, at in enumerate(stamps)]


TIERS = [{"up_to": "100", "price": "5"}, {"price": "4"}]
MARCH = calendar.monthrange(2026, 3)[1]
CASES = [
    Case(
        "a device that comes on the 15th",
        "2026-02",
        [item("device", "5.00")],
        {"devices": [*devices(10), *devices(1, "late", **{"from": "2026-02-15"})]},
        [("device", "2026-02-01", "52.50")],
    ),
    Case(
        "150 devices, graduated",
        "2026-02",
        [item("device") | {"prices": [price(model="graduated", tiers=TIERS)]}],
        {"devices": devices(150)},
        [("device", "2026-02-01", "700.00")],
    ),
    Case(
        "150 devices, volume",
        "2026-02",
        [item("device") | {"prices": [price(model="volume", tiers=TIERS)]}],
        {"devices": devices(150)},
        [("device", "2026-02-01", "600.00")],
    ),
    Case(
        "a price that changes on 16 June",
        "2026-06",
        [item("device") | {"prices": [price("5"), price("6", "2026-06-16", 2)]}],
        {"devices": devices(10)},
        [("device", "2026-06-01", "25.00"), ("device", "2026-06-16", "30.00")],
    ),
    Case(
        "a fee from 26 February of a leap year",
        "2024-02",
        [item("flat", "100", **{"from": "2024-02-26"})],
        {},
        [("flat", "2024-02-26", "13.79")],
    ),
    Case(
        "a fee from 26 February",
        "2026-02",
        [item("flat", "100", **{"from": "2026-02-26"})],
        {},
        [("flat", "2026-02-26", "10.71")],
    ),
    Case("a fee of a whole leap February", "2024-02", [item("flat", "100")], {}, [("flat", "2024-02-01", "100.00")]),
    Case(
        "included calls are given once, although the plan is renewed",
        "2026-03",
        [
            item("api_calls", "1", included="3100", to="2026-03-15"),
            item("api_calls", "1", included="3100", **{"from": "2026-03-15"}),
        ],
        {"api_call_counts": [{"day": "2026-03-02", "count": 3100}]},
        [("api_calls", "2026-03-01", "0.00"), ("api_calls", "2026-03-15", "0.00")],
    ),
    Case(
        "an add-on from 10 to 19 March",
        "2026-03",
        [item("flat", "100"), item("flat", "20", product="add-on", **{"from": "2026-03-10", "to": "2026-03-20"})],
        {},
        [("add-on", "2026-03-10", "6.45"), ("flat", "2026-03-01", "100.00")],
    ),
    Case(
        "an add-on that is over",
        "2026-04",
        [item("flat", "100"), item("flat", "20", product="add-on", **{"from": "2026-03-10", "to": "2026-03-20"})],
        {},
        [("flat", "2026-04-01", "100.00")],
    ),
    Case(
        "15 of 31 days of 1000 JPY",
        "2026-03",
        [item("flat", "1000", to="2026-03-16")],
        {},
        [("flat", "2026-03-01", "484")],
        {"currency": "JPY"},
    ),
    Case(
        "15 of 31 days of 10 KWD",
        "2026-03",
        [item("flat", "10", to="2026-03-16")],
        {},
        [("flat", "2026-03-01", "4.839")],
        {"currency": "KWD"},
    ),
    Case(
        "100,000 GB at 0.00045",
        "2026-03",
        [item("storage", "0.00045")],
        {"storage": [{"timestamp": f"{day}T00:00:00Z", "gb": "100000"} for day in days("2026-03-01", MARCH)]},
        [("storage", "2026-03-01", "45.00")],
    ),
    Case(
        "a device that was retired on 11 March and reports on",
        "2026-03",
        [item("device", "31.00")],
        {
            "devices": devices(1, **{"from": "2026-01-01", "to": "2026-03-11"}),
            "reports": [reported("d0", *days("2026-03-01", MARCH))],
        },
        [("device", "2026-03-01", "10.00")],
    ),
    Case(
        "Berlin: calls on both sides of the end of March",
        "2026-03",
        [item("api_calls", "1")],
        {"api_calls": calls("2026-03-31T21:59:59.999Z", "2026-03-31T22:00:00Z")},
        [("api_calls", "2026-03-01", "1.00")],
        {"time_zone": "Europe/Berlin"},
    ),
    Case(
        "Kolkata: a sample at a quarter past midnight, in March",
        "2026-03",
        [item("device", "30", basis="reporting")],
        {"devices": devices(1), "reports": [reported("d0", "2026-04-01T00:15:00+05:30")]},
        [("device", "2026-03-01", "0.00")],
        {"time_zone": "Asia/Kolkata"},
    ),
    Case(
        "Kolkata: a sample at a quarter past midnight, in April",
        "2026-04",
        [item("device", "30", basis="reporting")],
        {"devices": devices(1), "reports": [reported("d0", "2026-04-01T00:15:00+05:30")]},
        [("device", "2026-04-01", "1.00")],
        {"time_zone": "Asia/Kolkata"},
    ),
    Case(
        "registered: a laptop of weekdays and a silent server",
        "2026-03",
        [item("device", "10.00")],
        {
            "devices": [*devices(1, "laptop"), *devices(1, "server")],
            "reports": [
                reported(
                    "laptop0", *(day for day in days("2026-03-01", MARCH) if date.fromisoformat(day).weekday() < 5)
                )
            ],
        },
        [("device", "2026-03-01", "20.00")],
    ),
    Case(
        "a call that is stamped anew with each retry, and answers that are not billed",
        "2026-03",
        [item("api_calls", "1")],
        {
            "api_calls": [
                *calls("2026-03-05T10:00:00Z", "2026-03-05T10:00:01Z", "2026-03-07T00:00:00Z", id_="one"),
                *calls("2026-03-05T10:00:00Z", status=500),
                *calls("2026-03-05T11:00:00Z", status=401),
                *calls("2026-03-05T12:00:00Z", status=404),
            ]
        },
        [("api_calls", "2026-03-01", "2.00")],
    ),
    Case(
        "a reporter that fell silent is missing after a week",
        "2026-04",
        [item("storage", "30")],
        {
            "storage": [
                {"timestamp": "2026-04-01T00:00:00Z", "gb": "10"},
                {"timestamp": "2026-04-03T12:00:00Z", "gb": "20"},
            ]
        },
        # 2.5 days of 10 GB and 7 of 20, of 30 days
        [("storage", "2026-04-01", "165.00")],
    ),
    Case(
        "a device that moves away at noon of the 11th, to another organization",
        "2026-03",
        [item("device", "31.00")],
        {
            "devices": [
                *devices(1, **{"from": "2026-01-01", "to": "2026-03-11T12:00:00Z"}),
                *devices(1, organization_id=ANOTHER, **{"from": "2026-03-11T12:00:00Z"}),
            ]
        },
        [("device", "2026-03-01", "10.00")],
    ),
    Case(
        "filters, spare and devices that are not billable",
        "2026-04",
        [
            item("device", "30", product="servers", filter={"classes": ["server"], "without_tags": ["spare"]}),
            item("device", "3", product="rest", filter={"classes": ["laptop"], "sites": ["Bonn"]}),
        ],
        {
            "devices": [
                *devices(2, "s", **{"class": "server"}),
                *devices(1, "spare", **{"class": "server", "tags": ["spare", "rack 2"]}),
                *devices(1, "free", **{"class": "server", "billable": False}),
                *devices(3, "l", **{"class": "laptop", "site": "Bonn"}),
                *devices(1, "far", **{"class": "laptop", "site": "Köln"}),
            ]
        },
        [("rest", "2026-04-01", "9.00"), ("servers", "2026-04-01", "60.00")],
    ),
    Case(
        "the peak and the last day",
        "2026-04",
        [item("device", "1", product="peak", basis="peak"), item("device", "1", product="last", basis="last_day")],
        {"devices": [*devices(2), *devices(3, "short", **{"from": "2026-04-10", "to": "2026-04-12"})]},
        [("last", "2026-04-01", "2.00"), ("peak", "2026-04-01", "5.00")],
    ),
    Case(
        "tax, a discount and a minimum",
        "2026-04",
        [
            item("device", "10", discounts=[{"from": "2026-04-16", "to": "2026-05-01", "percent": "50"}]),
            item("flat", "1.05", tax={"category": "S", "rate": "7"}),
            item("one_off", "3", quantity="2", **{"from": "2026-04-30"}),
            item("backup", "1", minimum_amount="12.34"),
        ],
        {"devices": devices(1)},
        [
            ("backup", "2026-04-01", "0.00"),
            ("backup", "2026-04-01", "12.34"),
            ("device", "2026-04-01", "5.00"),
            ("device", "2026-04-16", "2.50"),
            ("flat", "2026-04-01", "1.05"),
            ("one_off", "2026-04-30", "6.00"),
        ],
        {"tax": {"category": "S", "rate": "19"}},
    ),
]
