"""Who may send, as PostgreSQL has it."""

from ninjait_pipelines.ingest.decode.model import SenderRegistry
from ninjait_pipelines.metrics.interfaces import patterns_of
from ninjait_pipelines.resources.postgres import Postgres


def load_sender_registry(postgres: Postgres) -> SenderRegistry:
    """The organizations and devices that may send now. Retired devices too: their last samples may arrive late."""
    organizations = postgres.rows("SELECT id::text AS id FROM organizations")
    devices = postgres.rows("SELECT id::text AS id, organization_id::text AS organization_id, name FROM devices")
    hosts: dict[str, dict[str, str]] = {}
    for row in devices:
        hosts.setdefault(row["name"], {})[row["organization_id"]] = row["id"]
    return SenderRegistry(
        organizations=frozenset(row["id"] for row in organizations),
        devices={row["id"]: row["organization_id"] for row in devices},
        hosts=hosts,
        hosts_without_organization=postgres.hosts_without_organization,
        interfaces_left_out=patterns_of(postgres.interfaces_left_out),
    )
