"""The program `ninjait`, by its module and by what it loads."""

import subprocess
import sys

import pytest


def test_the_module_is_the_command(stack: dict[str, str]) -> None:
    """As a person starts it; most tests start commands without its imports."""
    command = [sys.executable, "-m", "ninjait_pipelines.cli", "sql", "--csv"]
    environment = {"PATH": "/usr/bin:/bin", **stack}
    for sql, expected in (("SELECT 1 AS a", (0, ["a", "1"], 0)), ("nonsense", (1, [], 1))):
        done = subprocess.run([*command, sql], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout.split(), len(done.stderr.splitlines())) == expected


@pytest.mark.parametrize(
    ("module", "not_yet"),
    [
        ("cli", "dagster pyarrow numpy psycopg pydantic_settings pymongo"),
        ("resources", "boto3 pika influxdb_client pandas"),
    ],
)
def test_a_command_imports_only_what_it_uses(module: str, not_yet: str) -> None:
    """Every command that opened stores paid half a second of the processor for clients that it never used."""
    code = f"import sys, ninjait_pipelines.{module}; print(*sys.modules.keys() & set({not_yet.split()}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
