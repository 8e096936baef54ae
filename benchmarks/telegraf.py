"""Telegraf as the peer: the configuration that was the fastest of those tried, and its process."""

import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from ninjait_pipelines.local.stack.servers import SERVERS

BINARY = SERVERS / "bin" / "telegraf"
PREFETCH = 500
STOP_SECONDS = 30.0
# Not that a flush took longer than its interval: it goes on at once.
COMPLAINT = re.compile(r" [EW]! (?!Strict environment variable)(?!.*did not complete within its flush interval).*")

INPUT = """
[agent]
  interval = "10s"
  flush_interval = "{flush}"
  metric_batch_size = 5000
  metric_buffer_limit = 500000
  omit_hostname = true
  quiet = true
[[inputs.amqp_consumer]]
  brokers = ["{broker}"]
  username = "{user}"
  password = "{password}"
  exchange = ""
  queue = "agent.metrics"
  queue_passive = true
  binding_key = ""
  prefetch_count = 500
  max_undelivered_messages = 1000
"""
JSON = """
  data_format = "json_v2"
  [[inputs.amqp_consumer.json_v2]]
    measurement_name = "device_metrics"
    [[inputs.amqp_consumer.json_v2.tag]]
      path = "organization_id"
    [[inputs.amqp_consumer.json_v2.tag]]
      path = "device_id"
    [[inputs.amqp_consumer.json_v2.object]]
      path = "samples"
      timestamp_key = "timestamp"
      timestamp_format = "rfc3339"
"""
LINES = """
  data_format = "influx"
"""
# All that we take but a volume's `free`, which would bring that of memory with it, which we do not take.
ONLY_OURS = """
  fieldinclude = ["usage_idle", "used", "total", "bytes_recv", "bytes_sent"]
"""
DISCARD = """
[[outputs.discard]]
"""
INFLUXDB = """
[[outputs.influxdb_v2]]
  urls = ["{influxdb}"]
  token = "{token}"
  organization = "{organization}"
  bucket = "{bucket}"
"""
# What was found to be faster still on one machine: no packing, and two requests at once.
TUNED = (
    INFLUXDB
    + """
  metric_batch_size = 10000
  content_encoding = "identity"
  concurrent_writes = 2
"""
)


def start(folder: Path, parts: str, settings: Mapping[str, str], flush: str = "1s") -> subprocess.Popen[bytes]:
    """A Telegraf of these parts; its log is in the folder."""
    broker = urlsplit(settings["RABBITMQ_URL"])
    text = (INPUT + parts).format(
        flush=flush,
        broker=f"amqp://{broker.hostname}:{broker.port}/",
        user=broker.username,
        password=broker.password,
        influxdb=settings["INFLUXDB_URL"],
        token=settings["INFLUXDB_TOKEN"],
        organization=settings["INFLUXDB_ORG"],
        bucket=settings["INFLUXDB_BUCKET"],
    )
    file = folder / "telegraf.conf"
    file.touch(mode=0o600)
    file.write_text(text)
    with (folder / "telegraf.log").open("wb") as log:
        return subprocess.Popen([str(BINARY), "--config", str(file)], stdout=log, stderr=log)


def complaints(folder: Path) -> list[str]:
    """Errors and warnings in its log, which name what it drops."""
    return COMPLAINT.findall((folder / "telegraf.log").read_text(errors="replace"))


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks it to write what it holds, and to end."""
    process.send_signal(signal.SIGTERM)
    process.wait(STOP_SECONDS)
