"""Questions about a month of 1,000 organizations with 100 devices each: explaining a line, reconciling, simulating.

The engines are those of documents.py, with the month issued; the organization that is explained has its hours, too.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

from benchmarks.marts.documents import AT, DEVICES, MONTH, ORGANIZATIONS, fill
from benchmarks.marts.engines import Engines, started
from benchmarks.marts.figure import Figure, cost, figure
from ninjait_pipelines.billing.explain import explain
from ninjait_pipelines.billing.finalise import finalise
from ninjait_pipelines.billing.reconciliation import findings
from ninjait_pipelines.billing.simulate import simulate_plan

HOURS = """
INSERT INTO device_metrics_hourly_versions (organization_id, device_id, timestamp, sample_count, as_of)
SELECT organization_id, id, toDateTime({month:Date}, 'UTC') + toIntervalHour(number), 120, now64(6)
FROM devices CROSS JOIN numbers(744) AS hours
WHERE organization_id = {organization:UUID}
"""

DOCUMENT = """
SELECT i.number, i.organization_id, count(*) AS lines
FROM billing.invoices AS i JOIN billing.invoice_lines AS l ON l.invoice_id = i.id
GROUP BY i.id ORDER BY i.series_number LIMIT 1
"""


def measure(rounds: int) -> list[Figure]:
    """Each line of an issued document explained, by the clock, alone and as a command; the others by processor time."""
    with started() as engines:
        fill(engines)
        stores = engines.stores
        finalise(stores.postgres, stores.clickhouse, MONTH, force="measured", clock=lambda: AT)
        [row] = stores.postgres.rows(DOCUMENT)
        number, lines = row["number"], row["lines"]
        stores.clickhouse.command(HOURS, month=MONTH, organization=row["organization_id"])
        servers = [engines.processes[name] for name in ("postgres", "clickhouse")]

        def seconds(call: Callable[[], object], by_clock: bool) -> list[float]:
            costs = [cost(call, servers) for _ in range(rounds + 1)][1:]
            return [one.wall if by_clock else one.all_cpu for one in costs]

        explained = [
            second
            for line in range(1, lines + 1)
            for second in seconds(partial(explain, stores.postgres, stores.clickhouse, number, line), True)
        ]
        command = seconds(partial(_command, engines, "explain", number, "2"), True)
        reconciled = seconds(partial(findings, stores.postgres, stores.clickhouse, MONTH), False)
        plan = partial(simulate_plan, stores.postgres, stores.clickhouse, MONTH, "standard")
        simulated = seconds(plan, False)
    of = f"{ORGANIZATIONS:,} organizations with {DEVICES} devices"
    return [
        figure("explain", f"a line of an issued document, of {of}: by the clock", explained, bound=1),
        figure("explain-command", "... as `ninjait billing explain`, with the start of its process", command),
        figure("reconcile", f"a month's findings, of {of}; processor time, servers' included", reconciled),
        figure("simulate", f"a month under another plan, of {of}; processor time, servers' included", simulated),
    ]


def _command(engines: Engines, *words: str) -> None:
    command = [sys.executable, "-m", "ninjait_pipelines.cli", "billing", *words]
    subprocess.run(command, env={**os.environ, **engines.settings}, check=True, capture_output=True)
