"""The local ClickHouse with a server's rights: its one user may do what ROLE of sql/roles/clickhouse.sql may.

Run as clickhouse_http is.
"""

import os
import re
import time
from pathlib import Path

from ninjait_pipelines.local.stack import clickhouse_engine, clickhouse_http
from ninjait_pipelines.paths import SQL

CONFIG = "<clickhouse><users_config>{users}</users_config></clickhouse>"
USERS = """<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default><password></password>
<networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota><grants>{grants}</grants></default></users>
</clickhouse>"""


def grants_of(role: str) -> list[str]:
    """The GRANTs of a user, without its name."""
    script = (SQL / "roles" / "clickhouse.sql").read_text()
    found = re.findall(rf"^(GRANT [^;]+) TO {role};$", script, re.MULTILINE)
    assert found, role
    return found


def rules(folder: Path) -> Path:
    # The front makes its database at its start, which a server's administrator has done.
    granted = [*grants_of(os.environ["ROLE"]), "GRANT CREATE DATABASE ON default.*"]
    users, config = folder / "users.xml", folder / "config.xml"
    users.write_text(USERS.format(grants="".join(f"<query>{one}</query>" for one in granted)))
    config.write_text(CONFIG.format(users=users))
    return config


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    time.tzset()
    clickhouse_engine._write_rules = rules
    os.environ["CLICKHOUSE_DATABASE"] = "default"
    clickhouse_http.main()
