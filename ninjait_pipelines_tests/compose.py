"""What docker-compose.yml defines."""

import json
import re
from typing import Any

import yaml

from ninjait_pipelines.paths import ROOT


def compose_definitions() -> dict[str, Any]:
    """RabbitMQ's definitions as compose writes them, each password the name of its variable."""
    content = compose_file()["configs"]["rabbitmq-definitions"]["content"]
    return json.loads(re.sub(r"\$\{(\w+)[^}]*\}", r"\1", content).replace("$$", "$"))


def compose_file() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())
