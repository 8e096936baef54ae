"""`ninjait sql`: one statement against ClickHouse, its result as a table, JSON or CSV."""

from __future__ import annotations

import csv
import json
import sys
from typing import Annotated, Any

import typer

from ninjait_pipelines.cli.stack import fail


def register(app: typer.Typer) -> None:
    """Adds the command to `ninjait`."""
    app.command()(sql)


def sql(
    statement: Annotated[str, typer.Argument(help="One statement of ClickHouse's SQL.", metavar='"SELECT ..."')],
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of objects.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Allow statements that change something.")] = False,
) -> None:
    """Ask ClickHouse. Only reading is allowed unless --write is given.

    Example: ninjait sql "SELECT hour, sum(sample_count) FROM device_metrics_hourly GROUP BY hour ORDER BY hour"
    """
    from clickhouse_connect.driver.exceptions import ClickHouseError

    from ninjait_pipelines import settings
    from ninjait_pipelines.resources import open_stores

    if as_json and as_csv:
        fail("choose one of --json and --csv")
    with open_stores(settings.load()) as stores:
        client = stores.clickhouse.client
        try:
            # readonly=2: reads, and settings of the query itself; ClickHouse refuses everything else.
            result = client.query(statement, settings={} if write else {"readonly": 2}, tz_mode="aware")
        except ClickHouseError as error:
            fail(" ".join(str(error).split()))
    names, rows = list(result.column_names), [list(row) for row in result.result_rows]
    if as_json:
        typer.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], default=str, indent=2))
    elif as_csv:
        csv.writer(sys.stdout).writerows([names, *rows])
    else:
        _print(names, rows)


def _print(names: list[str], rows: list[list[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    console.print(f"{len(rows)} row{'' if len(rows) == 1 else 's'}", style="dim")
