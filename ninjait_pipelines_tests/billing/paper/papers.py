"""Documents to put on paper, each made by the rating from an agreement and usage."""

from datetime import UTC, date, datetime
from typing import Any

import msgspec

from ninjait_pipelines.billing.rating.agreement import Party
from ninjait_pipelines.billing.rating.credit import credit_note
from ninjait_pipelines.billing.rating.document import Document
from ninjait_pipelines_tests.billing.rating.agreements import agreed, bill, devices, item, priced

SELLER = Party(name="Nordlicht IT GmbH", address=("Speicherstraße 12", "20457 Hamburg"), tax_id="DE811907980")
ACME = {"name": "Acme GmbH", "address": ["Industrieweg 7", "70565 Stuttgart"], "tax_id": "DE136695976"}
# What a tenant may write: markup of HTML, Jinja, Typst and CSS, a turned reading order, controls, no space to break at.
HOSTILE = (
    '<script>alert(1)</script> #panic("x") *b* $x$ {{ 7*7 }} {% raw %} \'\\ ]} \u202edrow\u2066 \x00\x1b[2J\n\u2028 😀 '
)
WIDE = "W" * 500


def issued(draft: Document, number: str = "R-2026-042", **more: Any) -> Document:
    at = datetime(2026, 7, 3, 22, 30, 0, 123456, tzinfo=UTC)
    return msgspec.structs.replace(
        draft,
        **{
            "status": "issued",
            "number": number,
            "issued_at": at,
            "due_on": date(2026, 7, 18),
            "seller": SELLER,
            **more,
        },
    )


def product(name: str, kind: str, description: str, amount: str | None = None, **more: Any) -> dict[str, Any]:
    return {**item(kind, amount, **more), "product": name, "description": description}


def invoice() -> Document:
    """June 2026 in Berlin: a price that changes, tiers, packages, a discount, an item in advance."""
    prices = [priced("30"), priced("32", version=2) | {"from": "2026-06-16"}]
    terms = agreed(
        {**product("servers", "device", "Servers", filter={"classes": ["server"]}), "prices": prices},
        product("clients", "device", "Clients", price=TIERS, filter={"classes": ["client"]}),
        product("calls", "api_calls", "API calls", "2", price={"model": "package", "size": "1000"}),
        product("storage", "storage", "Storage", "0.00045", discounts=[{"from": "2026-06-01", "percent": "12.5"}]),
        product("platform", "flat", "Platform fee", "100", billed="advance"),
        id="A-17",
        time_zone="Europe/Berlin",
        bill_to=ACME,
        purchase_order="PO 4500",
        tax={"category": "S", "rate": "19"},
    )
    fleet = [*devices(3, "s", **{"class": "server"}), *devices(130, "c", **{"class": "client"})]
    stored = [
        {"timestamp": f"2026-{day}T00:00:00Z", "gb": "100000"} for day in ("05-31", "06-07", "06-14", "06-21", "06-28")
    ]
    calls = [{"day": "2026-06-03", "count": 6200}]
    return issued(
        bill(terms, "2026-06", devices=fleet, storage=stored, api_call_counts=calls), payment_terms="14 days net"
    )


TIERS = {"model": "graduated", "tiers": [{"up_to": "100", "price": "5"}, {"price": "4"}]}


def credit() -> Document:
    """All of the invoice."""
    return issued(credit_note(invoice(), [], "Goodwill", 2), "R-2026-043", due_on=None)


def correction() -> Document:
    """May had three devices and not two, which July's invoice says."""
    terms = agreed(product("devices", "device", "Devices", "5", to="2026-06-01"), tax={"category": "AE"})
    may = issued(bill(terms, "2026-05", devices=devices(2)), "R-2026-031")
    return issued(bill(terms, "2026-07", may, devices=devices(3)))


def incomplete() -> Document:
    """Storage that was reported once, and never again."""
    terms = agreed(product("storage", "storage", "Storage", "0.1"), tax={"category": "E"})
    return bill(terms, "2026-06", storage=[{"timestamp": "2026-06-01T00:00:00Z", "gb": "100"}])


def japanese() -> Document:
    terms = agreed(
        product("devices", "device", "端末管理", "1500"),
        currency="JPY",
        time_zone="Asia/Tokyo",
        bill_to={"name": "株式会社テスト髙﨑商店"},
        tax={"category": "S", "rate": "10"},
    )
    return issued(bill(terms, "2026-06", devices=devices(7)))


def right_to_left() -> Document:
    terms = agreed(
        product("devices", "device", "إدارة الأجهزة", "2.125"),
        currency="KWD",
        time_zone="Asia/Kuwait",
        bill_to={"name": "شركة الاختبار", "address": ["חברת הצפון"]},
    )
    return issued(bill(terms, "2026-06", devices=devices(13)))


def hostile() -> Document:
    text = (HOSTILE * 9)[:500]
    payer = {"name": text, "address": [WIDE, '<img src="https://evil.example/x" onerror=alert(1)>'], "tax_id": text}
    terms = agreed(
        product("a", "device", text, "5"),
        product("b", "flat", WIDE, "999999999.123456789"),
        bill_to=payer,
        purchase_order=text,
    )
    return issued(bill(terms, "2026-06", devices=devices(3)), '<b>"N"', notes=(text,), payment_terms=text)


def long() -> Document:
    """200 lines of 40 products."""
    items = [
        product(f"p{n // 5:02}", "device", f"Item {n}", "3", to=f"2026-06-{n % 5 * 5 + 6:02}")
        | {"from": f"2026-06-{n % 5 * 5 + 1:02}"}
        for n in range(200)
    ]
    return issued(bill(agreed(*items, bill_to=ACME), "2026-06", devices=devices(12)))


ALL = {
    "invoice": invoice,
    "credit": credit,
    "correction": correction,
    "incomplete": incomplete,
    "japanese": japanese,
    "right_to_left": right_to_left,
    "hostile": hostile,
    "long": long,
}
