"""`ninjait sql`: one statement against ClickHouse, its result as a table, JSON or CSV."""

from __future__ import annotations

from typing import Annotated

import typer

from ninjait_pipelines.cli.output import Json, fail, opened_stores, print_csv, print_json, print_table, say


def register(app: typer.Typer) -> None:
    """Adds the command to `ninjait`."""
    # A statement may begin with a comment, which looks like an option.
    app.command(context_settings={"ignore_unknown_options": True})(sql)


def sql(
    statement: Annotated[str, typer.Argument(help="One statement of ClickHouse's SQL.", metavar='"SELECT ..."')],
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Allow statements that change something.")] = False,
) -> None:
    """Ask ClickHouse. Only reading is allowed unless --write is given.

    Example: ninjait sql "SELECT timestamp, sum(sample_count) FROM device_metrics_hourly GROUP BY 1 ORDER BY 1"
    """
    from clickhouse_connect.driver.exceptions import ClickHouseError

    from ninjait_pipelines.sql_words import READS, first_word

    if as_json and as_csv:
        fail("choose one of --json and --csv")
    # Checked here, because ClickHouse's readonly mode allows what changes no table, such as KILL QUERY.
    reads = first_word(statement) in READS
    if not reads and not write:
        fail(f"only reading ({', '.join(sorted(READS - {'('}))}) is allowed unless --write is given")
    with opened_stores() as stores:
        client = stores.clickhouse.client
        try:
            if not reads:
                client.command(statement)
                return
            # readonly=2 allows reads and settings of the query; ClickHouse refuses writes hidden in a read.
            result = client.query(statement, settings={"readonly": 2}, tz_mode="aware")
        except ClickHouseError as error:
            fail(" ".join(str(error).split()))
    if as_json:
        print_json([dict(zip(result.column_names, row, strict=True)) for row in result.result_rows])
    elif as_csv:
        print_csv(result.column_names, result.result_rows)
    else:
        print_table(result.column_names, result.result_rows)
        say(f"{len(result.result_rows)} row{'' if len(result.result_rows) == 1 else 's'}")
