"""ClickHouse of an older version: the local front with an older chDB, from the folder that `make servers` has filled.

Run as clickhouse_http is, with that folder first in PYTHONPATH; `--clickhouse 25.8` does it for the tests.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

from ninjait_pipelines.local.stack import clickhouse_engine, clickhouse_http


class OldRun(clickhouse_engine.Run):
    """A statement on an engine without `send_insert`, whose results do not count written rows."""

    def _insert(self, data: BinaryIO) -> None:
        with tempfile.NamedTemporaryFile() as file:
            while piece := data.read(clickhouse_engine.COPY_BYTES):
                file.write(piece)
            file.flush()
            source = clickhouse_engine.quote_string(file.name)
            statement = f"{self.statement.sql} FROM INFILE {source} FORMAT {self.statement.insert_format}"
            if not Path(file.name).stat().st_size:  # of an empty file the engine says that there is none
                return
            try:
                self._connection.query(statement)
            except UnicodeDecodeError as error:  # an error that quotes the data
                raise RuntimeError(error.object.decode(errors="replace")) from None

    def _whole(self) -> Any:
        result = self._connection.query(self.statement.sql, self.statement.format, params=self.statement.params)
        self.rows = result.rows_read() if self.statement.reads else 0
        yield result.bytes()


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    time.tzset()
    clickhouse_http.Run = OldRun  # type: ignore[misc]
    clickhouse_http.main()
