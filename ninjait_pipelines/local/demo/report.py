"""What the demo prints at the end: figures of every stage, each held against another store's."""

import json
from collections.abc import Collection
from datetime import timedelta
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table

from ninjait_pipelines import keys
from ninjait_pipelines.archive.assets import DATASET
from ninjait_pipelines.archive.days import verify_day
from ninjait_pipelines.billing.explain import explain
from ninjait_pipelines.ingest.quarantine import query
from ninjait_pipelines.ingest.quarantine.query import summarize
from ninjait_pipelines.local.demo.run import DAY, Story, stored_points
from ninjait_pipelines.resources import Stores
from ninjait_pipelines.streams import STREAMS

OUTCOMES = ("written", "not_understood", "partly_quarantined", "quarantined", "duplicate")
TABLES = {stream.queue: stream.table for stream in STREAMS if stream.store == "clickhouse"}
# Copies that left a queue since the demo began; of several copies of a message all but one are duplicates. This counts
# the demo's own copies only, so that a second demo of the same day adds up as well.
_LEDGER = """
SELECT queue, outcome, count() AS messages FROM (
    SELECT queue, if(row_number() OVER (
        PARTITION BY queue, organization_id, message_id
        ORDER BY outcome = 'written' DESC, outcome = 'partly_quarantined' DESC, recorded_at, delivery_id
    ) > 1, 'duplicate', outcome) AS outcome
    FROM message_deliveries FINAL WHERE recorded_at >= {since:DateTime64(6, 'UTC')}
) GROUP BY queue, outcome
"""


class Report:
    """Prints the sections and remembers what did not add up."""

    def __init__(self, console: Console, stores: Stores, story: Story) -> None:
        self.console, self.stores, self.story = console, stores, story
        self.wrong: list[str] = []
        self.checks = 0

    def show(self) -> bool:
        """All sections; True where every figure adds up."""
        for section in (
            self.engines,
            self.ledger,
            self.stores_against_stores,
            self.one_device,
            self.dashboard,
            self.tickets,
            self.invoice,
            self.explained,
            self.reconciled,
            self.archive,
            self.quarantine,
            self.weekly_report,
        ):
            self.console.print()
            self.console.print(section())
        self.console.print()
        self.console.print(self.verdict())
        return not self.wrong

    def equal(self, what: str, expected: Any, found: Any) -> str:
        """A mark for a table; remembers an inequality by its name."""
        self.checks += 1
        if expected == found:
            return "[green]\u2713[/]"
        self.wrong.append(f"{what}: expected {expected}, found {found}")
        return f"[bold red]\u2717 expected {expected}[/]"

    def engines(self) -> Table:
        """Which engine carried what, as each reports its own name."""
        tally, stores = self.story.tally, self.stores
        messages = sum(queue.messages for queue in tally.values())
        carried = {
            "message_queue": f"{messages:,} messages",
            "metrics_store": f"{tally['agent.metrics'].points:,} samples and their aggregates",
            "clickhouse": "events, roll-ups, marts, the ledger",
            "postgres": "who there is, tickets, invoices",
            "mongodb": f"{tally['platform.logs'].written:,} log entries, quarantine",
            "dragonfly": "latest values, caches, reports",
            "archive": f"{len(self.story.windows)} days of Parquet",
        }
        table = _table("The engines that carried it", "engine", "version", "what", "where", wrapped=("what",))
        for name, what in carried.items():
            status = stores.all()[name].status()
            table.add_row(status.store, status.version, what, status.address)
        return table

    def ledger(self) -> Table:
        """Published = written + partly quarantined + quarantined + duplicates + still queued, per queue."""
        rows = self.stores.clickhouse.rows(_LEDGER, since=self.story.started_at)
        found = {(row["queue"], row["outcome"]): row["messages"] for row in rows}
        table = _table("Conservation ledger: messages", "queue", "published", *OUTCOMES, "still queued", "")
        for queue, tally in self.story.tally.items():
            counts = [found.get((queue, outcome), 0) for outcome in OUTCOMES]
            queued = self.stores.message_queue.depth(queue)
            mark = self.equal(f"{queue} by outcome", [getattr(tally, outcome) for outcome in OUTCOMES], counts)
            balance = self.equal(f"{queue} in all", tally.messages, sum(counts) + queued.outstanding + queued.dead)
            mark = mark if "red" in mark else balance
            table.add_row(queue, f"{tally.messages:,}", *(f"{n:,}" for n in counts), f"{queued.outstanding}", mark)
        return table

    def stores_against_stores(self) -> Table:
        """The same samples and events, counted in each store that has them."""
        table = _table("Store against store", "what", "published", "found", "where", "")
        for start in sorted(self.story.windows):
            self._samples(table, start)
        for queue, name in TABLES.items():
            expected = self.story.tally[queue].written
            found = self.stores.clickhouse.scalar(
                f"SELECT count() FROM {name} WHERE message_id IN (SELECT message_id FROM message_deliveries "  # noqa: S608
                "WHERE queue = {queue:String} AND recorded_at >= {since:DateTime64(6, 'UTC')})",
                queue=queue,
                since=self.story.started_at,
            )
            mark = self.equal(name, expected, found)
            table.add_row(name.replace("_", " "), f"{expected:,}", f"{found:,}", "ClickHouse", mark)
        expected, found = self.story.tally["platform.logs"].written, self._logs()
        table.add_row(
            "application logs",
            f"{expected:,}",
            f"{found:,}",
            "MongoDB",
            self.equal("application_logs", expected, found),
        )
        return table

    def _samples(self, table: Table, start: Any) -> None:
        earlier, published = self.story.points_before[start], self.story.windows[start].points
        stored = stored_points(self.stores, start)
        # A day that an earlier demo has filled with other samples holds those as well: then only a loss can be seen.
        expected = published if earlier in (0, published) else stored
        name = f"samples of {start:%Y-%m-%d}"
        if expected != published:
            name += " [dim](and an earlier demo's)[/]"
        mark = self.equal(name, max(expected, published), stored)
        table.add_row(name, f"{published:,}", f"{stored:,}", self.stores.metrics_store.title, mark)
        hourly = self.stores.clickhouse.scalar(
            "SELECT sum(sample_count) FROM device_metrics_hourly "
            "WHERE timestamp >= {start:DateTime('UTC')} AND timestamp < {stop:DateTime('UTC')}",
            start=start,
            stop=start + DAY,
        )
        mark = self.equal(f"{name}, rolled up", stored, hourly)
        table.add_row("", "", f"{hourly:,}", "ClickHouse, hourly", mark)

    def _logs(self) -> int:
        ids = self._ids("platform.logs", "concat(toString(organization_id), '/', toString(message_id))", "written")
        return self.stores.mongodb.count_ids("application_logs", ids)

    def _ids(self, queue: str, column: str, *outcomes: str) -> list[str]:
        rows = self.stores.clickhouse.rows(
            f"SELECT DISTINCT toString({column}) AS id FROM message_deliveries FINAL "  # noqa: S608
            "WHERE queue = {queue:String} AND outcome IN {outcomes:Array(String)} "
            "AND recorded_at >= {since:DateTime64(6, 'UTC')}",
            queue=queue,
            outcomes=list(outcomes),
            since=self.story.started_at,
        )
        return [row["id"] for row in rows]

    def one_device(self) -> Table:
        """Some hours of the busiest server of yesterday."""
        rows = self.stores.clickhouse.rows(
            "SELECT hostname, timestamp AS hour, cpu_avg, cpu_max, memory_avg, disk_usage, network_in, sample_count, "
            "sample_share "
            "FROM device_metrics_hourly AS m INNER JOIN devices AS d ON d.id = m.device_id "
            "WHERE d.kind = 'server' AND timestamp >= {start:DateTime('UTC')} AND timestamp < {stop:DateTime('UTC')} "
            "ORDER BY cpu_avg DESC LIMIT 3",
            start=self.story.day,
            stop=self.story.day + DAY,
        )
        table = _table(
            "device_metrics_hourly: the busiest hours of a server",
            *("host", "hour, UTC", "CPU mean %", "max", "memory MiB", "disk MiB", "received MB", "samples", "share"),
        )
        for row in rows:
            table.add_row(
                row["hostname"],
                f"{row['hour']:%m-%d %H:%M}",
                *(f"{row[name]:,.1f}" for name in ("cpu_avg", "cpu_max", "memory_avg", "disk_usage")),
                f"{row['network_in'] / 1e6:,.1f}",
                str(row["sample_count"]),
                f"{row['sample_share']:.0%}",
            )
        return table

    def dashboard(self) -> Table:
        """What the platform's API reads from the cache."""
        table = _table(
            "Dragonfly: org:{organization_id}:summary",
            *("organization", "devices", "CPU mean %", "samples", "open tickets", "open alerts", "complete"),
            wrapped=("devices", "open tickets", "open alerts"),
        )
        for organization in self._organizations():
            found = json.loads(self.stores.dragonfly.client.get(keys.organization_summary(organization["id"])) or "{}")
            share = found["sample_share"]
            table.add_row(
                organization["name"],
                ", ".join(f"{count} {state}" for state, count in found["devices"].items() if state != "total"),
                f"{found['cpu_avg']:.1f}" if found["cpu_avg"] is not None else "-",
                f"{share:.0%}" if share is not None else "-",
                ", ".join(f"{count} {level}" for level, count in found["open_tickets"].items() if count) or "none",
                ", ".join(f"{count} {level}" for level, count in found["open_alerts"].items() if count) or "none",
                f"{found['completeness']:.0%}",
            )
        return table

    def _organizations(self) -> list[dict[str, Any]]:
        return self.stores.clickhouse.rows("SELECT id, name FROM organizations ORDER BY name")

    def tickets(self) -> Table:
        """The technicians with the most closed tickets in the last 40 days."""
        rows = self.stores.clickhouse.rows(
            "SELECT full_name, sum(tickets_closed) AS closed, "
            "sum(mean_hours_to_close * tickets_closed) / closed AS hours, "
            "sum(first_response_breaches) AS late_responses, sum(resolution_breaches) AS late_closings "
            "FROM technician_performance AS p INNER JOIN users AS u ON u.id = p.technician_id "
            "GROUP BY full_name ORDER BY closed DESC, full_name LIMIT 4"
        )
        table = _table(
            "technician_performance: the last 40 days",
            *("technician", "closed", "mean hours to close", "late first responses", "late closings"),
        )
        for row in rows:
            figures = (row["closed"], f"{row['hours']:.1f}", row["late_responses"], row["late_closings"])
            table.add_row(row["full_name"], *map(str, figures))
        return table

    def invoice(self) -> Table:
        """The largest document of the month before, and all documents of both months against PostgreSQL."""
        largest = explain(self.stores.postgres, self.stores.clickhouse, self._largest()).document
        payer = largest.bill_to.name if largest.bill_to else largest.organization_id
        title = f"{payer}, {largest.period_from:%B %Y}: {largest.status} {largest.kind} {largest.number or ''}"
        table = _table(title, "line", "days", "quantity", "unit", f"amount {largest.currency}", "")
        for line in largest.lines:
            days = f"{line.from_:%d %b} to {line.to - DAY:%d %b}"
            table.add_row(line.description, days, f"{line.quantity:,.2f}", line.unit, f"{line.amount:,}", "")
        table.add_row("tax", "", "", "", f"{largest.tax_total:,}", "")
        found = sum(line.amount for line in largest.lines) + largest.tax_total
        mark = self.equal("the invoice's lines and tax", largest.total, found)
        table.add_row("[bold]total[/]", "", "", "", f"[bold]{largest.total:,}[/]", mark)
        of_all = "SELECT count(*) AS n, sum(total) AS total FROM {}invoices"
        [booked] = self.stores.postgres.rows(of_all.format("billing."))
        [copied] = self.stores.clickhouse.rows(of_all.format(""))
        mark = self.equal("documents in PostgreSQL", booked, copied)
        table.add_row(
            f"[dim]all {copied['n']} documents, as in PostgreSQL[/]", "", "", "", f"{copied['total']:,.2f}", mark
        )
        return table

    def _largest(self) -> str:
        return str(self.stores.clickhouse.scalar("SELECT id FROM invoices ORDER BY number = '', total DESC LIMIT 1"))

    def explained(self) -> Table:
        """Its largest line of devices, down to messages: each query gives the number that it is printed beside."""
        name = self._largest()
        lines = explain(self.stores.postgres, self.stores.clickhouse, name).document.lines
        amounts = {number: line.amount for number, line in enumerate(lines, 1) if line.product == "devices"}
        number = max(amounts, key=amounts.__getitem__)
        found = explain(self.stores.postgres, self.stores.clickhouse, name, number)
        title = f"ninjait billing explain {found.document.number or name} {number}"
        table = _table(title, "step", "number", "asked of", "")
        for step in found.steps:
            table.add_row(step.title, f"{step.found}", step.store, self.equal(step.title, True, step.agrees))
        return table

    def reconciled(self) -> Table:
        """What does not fit together, by kind."""
        table = _table("billing_reconciliation: for a person to look at", "finding", "devices", "days", "money")
        rows = self.stores.clickhouse.rows(
            "SELECT finding, currency, uniqExact(device_id) AS devices, sum(days) AS days, sum(amount) AS money "
            "FROM billing_reconciliation GROUP BY finding, currency ORDER BY finding, currency"
        )
        for row in rows:
            money = f"{row['money']:,.2f} {row['currency']}" if row["currency"] else ""
            table.add_row(row["finding"].replace("_", " "), f"{row['devices']}", f"{row['days']}", money)
        return table

    def archive(self) -> Table:
        """The manifests, with every object read back and its hash verified once more."""
        table = _table(
            "Archive: verified by reading it back", "day", "objects", "rows", "bytes", "sha256 of the first", ""
        )
        for start in sorted(self.story.windows):
            manifest = verify_day(self.stores.archive, DATASET, start.date())
            rows = self.stores.clickhouse.scalar(
                "SELECT count() FROM device_metrics_hourly WHERE toDate(timestamp) = {day:Date}", day=start.date()
            )
            table.add_row(
                f"{manifest.day}",
                str(len(manifest.objects)),
                f"{manifest.rows:,}",
                f"{sum(described.bytes for described in manifest.objects):,}",
                manifest.objects[0].sha256[:16] + "\u2026",
                self.equal(f"archived rows of {manifest.day}", rows, manifest.rows),
            )
        return table

    def quarantine(self) -> Table:
        """What is held, by reason; each copy that the ledger calls quarantined must be there."""
        ids = {
            f"{queue}/{delivery}"
            for queue in self.story.tally
            for delivery in self._ids(queue, "delivery_id", "quarantined", "partly_quarantined")
        }
        documents = [found for found in query.select(self.stores.mongodb, state=None) if found["_id"] in ids]
        table = _table("MongoDB: quarantine, by reason", "reason", "copies", "samples or events", "")
        by_reason: dict[str, list[int]] = {}
        for line in summarize(documents):
            counts = by_reason.setdefault(line.reason, [0, 0])
            counts[0] += line.messages
            counts[1] += line.points
        for reason, (copies, points) in sorted(by_reason.items(), key=lambda item: -item[1][0]):
            table.add_row(reason, str(copies), str(points), "")
        mark = self.equal("quarantined copies", len(ids), len(documents))
        table.add_row("[dim]copies held, as in the ledger[/]", str(len(documents)), "", mark)
        return table

    def weekly_report(self) -> Table:
        """The report that the platform mails."""
        table = _table(
            "Dragonfly: report:weekly:{organization_id}",
            *("organization", "week from", "devices", "samples", "tickets opened, closed", "API calls", "errors"),
        )
        for organization in self._organizations():
            report = json.loads(self.stores.dragonfly.client.get(keys.weekly_report(organization["id"])) or "{}")
            share, errors = report["devices"]["sample_share"], report["api"]["error_share"]
            table.add_row(
                report["organization"],
                report["week"],
                str(report["devices"]["reporting"]),
                f"{share:.0%}" if share is not None else "-",
                f"{report['tickets']['opened']}, {report['tickets']['closed']}",
                f"{report['api']['calls']:,}",
                f"{errors:.1%}" if errors is not None else "-",
            )
        return table

    def verdict(self) -> Group:
        """Whether it adds up, and what to try next."""
        total = timedelta(seconds=round(sum(self.story.seconds.values())))
        if self.wrong:
            result = Panel("\n".join(self.wrong), title="These figures do not add up", border_style="red")
        else:
            result = Panel(f"All {self.checks} figures add up, after {total.seconds} seconds.", border_style="green")
        return Group(
            result,
            "Try next:",
            "  .venv/bin/ninjait status",
            "  .venv/bin/ninjait sql \"SELECT * FROM message_ledger WHERE outcome = 'quarantined' LIMIT 5\"",
            '  eval "$(.venv/bin/ninjait env)" && .venv/bin/dagster dev     [dim]then http://127.0.0.1:3000[/]',
        )


def _table(title: str, *columns: str, wrapped: Collection[str] = ()) -> Table:
    """Figures are never cut: on a narrow terminal the first column and those in `wrapped` take more lines instead."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for index, column in enumerate(columns):
        words = index == 0 or column in wrapped
        header = "\n".join(column.replace("_", " ").split())
        table.add_column(header, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    return table
