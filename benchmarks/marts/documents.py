"""A month's documents of 1,000 organizations with 100 devices each: drafts, a draft after something late, and issuing.

Days are written as billing measures them, so that only documents are measured here.
"""

from datetime import UTC, date, datetime, timedelta
from functools import partial

from benchmarks.marts.engines import Engines, started
from benchmarks.marts.figure import Cost, Figure, cost, figure
from ninjait_pipelines.billing.drafts import draw_up
from ninjait_pipelines.billing.finalise import finalise
from ninjait_pipelines.billing.write import save_drafts
from ninjait_pipelines.reference.copies import copy
from ninjait_pipelines.resources.clickhouse import ClickHouse

ORGANIZATIONS, DEVICES = 1_000, 100
MONTH, NEXT = date(2026, 5, 1), date(2026, 6, 1)
AT = datetime(2026, 9, 1, tzinfo=UTC)
ADD = """
INSERT INTO organizations (id, name, slug, time_zone, created_at)
SELECT md5('o' || n)::uuid, 'Organization ' || n, 'organization-' || n, 'Europe/Berlin', '2026-01-01Z'
FROM generate_series(1, %(organizations)s) AS n;
INSERT INTO devices (id, organization_id, name, kind, os_version, created_at)
SELECT md5(o.id::text || n)::uuid, o.id, 'host-' || n, 'server', 'Debian GNU/Linux 12', '2026-01-01Z'
FROM generate_series(1, %(devices)s) AS n, organizations AS o;
UPDATE billing.changed_terms SET changed_at = '2026-01-01Z';
INSERT INTO billing.sellers (name, is_default) VALUES ('Provider', true);
INSERT INTO billing.agreements (id, organization_id, currency, time_zone, term)
SELECT md5('a' || id)::uuid, id, 'USD', 'Europe/Berlin', '[2026-01-01,)' FROM organizations;
SELECT billing.subscribe(id, 'standard', term) FROM billing.agreements;
ANALYZE
"""
DAYS = """
INSERT INTO device_days_versions (organization_id, time_zone, device_id, local_day, hours, samples, as_of)
SELECT organization_id, 'Europe/Berlin', id, toDate({month:Date}) + number, 24, 2880, now64(6)
FROM devices CROSS JOIN numbers(toUInt64(dateDiff('day', {month:Date}, addMonths({month:Date}, 1)))) AS days
"""
USAGE = """
INSERT INTO usage_days_versions (
    organization_id, time_zone, local_day, kind, rule, quantity, unit, gb_milliseconds, known_milliseconds,
    day_milliseconds, completeness, as_of
)
SELECT
    organization_id, 'Europe/Berlin', toDate({month:Date}) + number, kind.1, kind.2, kind.3, kind.4,
    if(kind.4 = 'GB', 86400000 * 100, 0), if(kind.4 = 'GB', 86400000, 0), 86400000, 1, now64(6)
FROM (SELECT DISTINCT organization_id FROM devices) AS organizations
CROSS JOIN numbers(toUInt64(dateDiff('day', {month:Date}, addMonths({month:Date}, 1)))) AS days
ARRAY JOIN [
    ('hours', '', 24, 'hours'), ('api_calls', '401,403,5xx', 1000, 'calls'), ('storage', '7', 100, 'GB'),
    ('backup', '7', 100, 'GB')
] AS kind
"""


def measure(rounds: int) -> list[Figure]:
    """Drafts of a month; then it is issued once, and the next month drafted without late usage, and with some."""
    with started() as engines:
        fill(engines)
        stores = engines.stores
        servers = [engines.processes[name] for name in ("postgres", "clickhouse")]
        draft = partial(_draft, engines, MONTH)
        drafts = [cost(draft, servers) for _ in range(rounds + 1)][1:]
        issue = partial(finalise, stores.postgres, stores.clickhouse, MONTH, force="measured", clock=lambda: AT)
        issued = cost(issue, servers)
        assert stores.clickhouse.scalar("SELECT countIf(status = 'issued') FROM invoices") == ORGANIZATIONS
        following = [cost(partial(_draft, engines, NEXT), servers) for _ in range(rounds)]
        _late(stores.clickhouse)
        late = [cost(partial(_draft, engines, NEXT), servers) for _ in range(rounds)]
    of = f"a month's documents of {ORGANIZATIONS:,} organizations with {DEVICES} devices"
    return [
        _figure("documents", f"{of}: drafts; processor time, servers' included", drafts, bound=10),
        _figure("documents-issued", "... issued, drawn up again first", [issued]),
        _figure("documents-next", "... drafts of the next month, with nothing late", following),
        _figure("documents-late", "... and with one late device-day in the issued month", late),
    ]


def _figure(name: str, work: str, costs: list[Cost], bound: float | None = None) -> Figure:
    return figure(name, work, [one.all_cpu for one in costs], bound=bound)


def fill(engines: Engines) -> None:
    """What is agreed, and two months as they were measured."""
    postgres, clickhouse = engines.stores.postgres, engines.stores.clickhouse
    for statement in ADD.split(";\n"):
        with postgres.transaction() as connection:
            connection.execute(statement.encode(), {"organizations": ORGANIZATIONS, "devices": DEVICES})
    copy("devices", postgres, clickhouse, {})
    for month in (MONTH, NEXT):
        for statement in (DAYS, USAGE):
            clickhouse.command(statement, month=month)


def _draft(engines: Engines, month: date) -> None:
    postgres, clickhouse = engines.stores.postgres, engines.stores.clickhouse
    as_of = clickhouse.now()
    drawn = draw_up(postgres, clickhouse, month)
    save_drafts(postgres, clickhouse, month, drawn, as_of)
    assert len(drawn) == ORGANIZATIONS


def _late(clickhouse: ClickHouse) -> None:
    """A new version of the 10th, in which one more device reported."""
    day = MONTH + timedelta(days=9)
    as_of = clickhouse.now()
    rows = clickhouse.arrow("SELECT * EXCEPT (as_of) FROM device_days WHERE local_day = {day:Date}", day=day)
    clickhouse.replace_slice("device_days", rows.slice(1), as_of, [day])
