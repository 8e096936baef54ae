"""What agreements would cost under other items: the same usage, the same functions of rating, and nothing is written.

Corrections of earlier months are no part of it: they are charged under the agreement of then, whatever is agreed now.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

import msgspec

from ninjait_pipelines.billing.agreements import agreements_in_force, identifier
from ninjait_pipelines.billing.local_time import next_month
from ninjait_pipelines.billing.rating.agreement import Agreement, Item, Refused, agreement, decoded
from ninjait_pipelines.billing.rating.document import Document, draft
from ninjait_pipelines.billing.stored_usage import usage_if_agreed, usage_of
from ninjait_pipelines.left_out import LeftOut
from ninjait_pipelines.resources.clickhouse import ClickHouse, sql
from ninjait_pipelines.resources.postgres import Postgres

# What an agreement becomes; None where it stays as it is.
Changed = Callable[[Agreement], Agreement | None]


class Compared(msgspec.Struct, frozen=True):
    """An agreement's month, total with tax. before: null where there is no such agreement yet. incomplete: products of
    which not all usage is known."""

    organization_id: str
    agreement_id: str
    currency: str
    before: Decimal | None
    after: Decimal
    difference: Decimal
    incomplete: tuple[str, ...]


class Simulation(msgspec.Struct, frozen=True):
    """sums: per currency before, after and difference. left_as_they_are: ids of agreements in other currencies.
    left_out: what cannot be rated, with the reason."""

    agreements: tuple[Compared, ...]
    sums: dict[str, tuple[Decimal, Decimal, Decimal]]
    left_as_they_are: tuple[str, ...]
    left_out: dict[str, str]


def simulate_plan(
    postgres: Postgres, clickhouse: ClickHouse, month: date, plan: str, organization: str | None = None
) -> Simulation:
    """A month (its first day) of the agreements in force, of all organizations or of one, as if each had had the items
    of the plan of its currency all along. Raises Refused if there is no such plan."""
    items = plan_items(postgres, plan)
    return _simulate(postgres, clickhouse, month, organization, partial(under_plan, items))


def simulate_agreement(postgres: Postgres, clickhouse: ClickHouse, month: date, agreed: Agreement) -> Simulation:
    """A month (its first day) of one agreement, as it is given, beside the one of this id that is in force, if there is
    one. Raises Refused."""
    if month < agreed.term.from_.replace(day=1):
        raise Refused(f"term: the agreement begins on {agreed.term.from_}, after {month:%Y-%m}; simulate a later month")
    _check_id(agreed.organization_id)
    entered_as = str(identifier(UUID(agreed.organization_id), agreed.id))
    span = month, next_month(month)
    own = [one for one in agreements_in_force(postgres, *span) if one.organization_id == agreed.organization_id]
    [used] = usage_if_agreed(postgres, clickhouse, [agreed], own, *span).values()
    in_force = [one for one in own if one.id == entered_as]
    before = [draft(one, usage_of(postgres, clickhouse, [one], *span)[one.id], month) for one in in_force]
    return _simulation([_compared(before[0] if before else None, draft(agreed, used, month))], [], {})


def plan_items(postgres: Postgres, plan: str) -> dict[str, tuple[Item, ...]]:
    """Currency -> the items of the plan. Raises Refused if there is no such plan, or it has none."""
    rows = postgres.rows(sql("billing/plan_items"), {"plan": plan})
    found: dict[str, tuple[Item, ...]] = {}
    for row in rows:
        item: Item = decoded(row["item"].encode(), Item, f"plan {plan!r}")
        found[row["currency"]] = (*found.get(row["currency"], ()), item)
    if not found:
        names = sorted({row["name"] for row in postgres.rows("SELECT name FROM billing.plans")})
        raise Refused(f"plan: there is no plan {plan!r}; there are {', '.join(names)}")
    return found


def under_plan(items: Mapping[str, Sequence[Item]], agreed: Agreement) -> Agreement | None:
    """The agreement with the plan's items for its whole term; None where the plan has none in its currency. Raises
    Refused for what could not be entered."""
    if agreed.currency not in items:
        return None
    term = agreed.term
    held = tuple(msgspec.structs.replace(item, from_=term.from_, to=term.to) for item in items[agreed.currency])
    return agreement(msgspec.json.encode(msgspec.structs.replace(agreed, items=held)))


def _simulate(
    postgres: Postgres, clickhouse: ClickHouse, month: date, organization: str | None, change: Changed
) -> Simulation:
    left_out, span = LeftOut(), (month, next_month(month))
    found = agreements_in_force(postgres, *span, left_out)
    found = [one for one in found if organization in (None, one.organization_id)]
    name = "organization {0.organization_id}, agreement {0.id}".format
    pairs = list(left_out.each(found, name, lambda one: (one, change(one))))
    changed = [(one, other) for one, other in pairs if other is not None]
    before = usage_of(postgres, clickhouse, [one for one, _ in changed], *span)
    after = usage_if_agreed(postgres, clickhouse, [other for _, other in changed], found, *span)

    def compare(pair: tuple[Agreement, Agreement]) -> Compared:
        one, other = pair
        return _compared(draft(one, before[one.id], month), draft(other, after[other.id], month))

    compared = list(left_out.each(changed, lambda pair: name(pair[0]), compare))
    return _simulation(compared, [one.id for one, other in pairs if other is None], left_out.reasons)


def _check_id(organization: str) -> None:
    try:
        UUID(organization)
    except ValueError as error:
        raise Refused(f"organization_id: {organization!r} is no UUID; give the id of the organization") from error


def _compared(before: Document | None, after: Document) -> Compared:
    return Compared(
        after.organization_id,
        after.agreement_id,
        after.currency,
        before.total if before else None,
        after.total,
        after.total - (before.total if before else 0),
        tuple(sorted({line.product for line in after.lines if line.completeness < 1})),
    )


def _simulation(compared: Sequence[Compared], as_they_are: Sequence[str], left_out: dict[str, str]) -> Simulation:
    sums: dict[str, Any] = {}
    for currency in sorted({one.currency for one in compared}):
        own = [one for one in compared if one.currency == currency]
        before, after = sum((one.before or 0 for one in own), Decimal(0)), sum((one.after for one in own), Decimal(0))
        sums[currency] = (before, after, after - before)
    return Simulation(tuple(compared), sums, tuple(as_they_are), left_out)
