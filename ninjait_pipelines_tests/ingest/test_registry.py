"""Who may send, read from a real PostgreSQL."""

from typing import Any

from ninjait_pipelines.ingest.decode.model import SenderRegistry
from ninjait_pipelines.ingest.registry import load_sender_registry
from ninjait_pipelines.resources import Stores
from ninjait_pipelines_tests.ingest.samples import HOSTS, ORG, REGISTRY, SECOND_DEVICE


def loaded(stores: Stores, **settings: Any) -> SenderRegistry:
    with stores.postgres.elsewhere(**settings).open() as postgres:
        return load_sender_registry(postgres)


def test_organizations_and_devices_are_known_by_the_ids_that_messages_have(fleet: Stores) -> None:
    registry = loaded(fleet)
    assert (registry.organizations, registry.devices) == (REGISTRY.organizations, REGISTRY.devices)
    assert registry.hosts == HOSTS, "a name is that of a device in each organization"
    assert not registry.hosts_without_organization


def test_what_is_retired_or_deactivated_may_still_send_what_it_kept(fleet: Stores) -> None:
    """A laptop that is retired today sends last week's samples tomorrow."""
    with fleet.postgres.transaction() as connection:
        connection.execute("UPDATE devices SET retired_at = now() WHERE id = %s", (SECOND_DEVICE,))
        connection.execute("UPDATE organizations SET deactivated_at = now() WHERE id = %s", (ORG,))
    registry = loaded(fleet)
    assert (registry.devices, registry.refusal(ORG)) == (REGISTRY.devices, None)


def test_settings_decide_on_keys_without_organization_and_on_interfaces(fleet: Stores) -> None:
    registry = loaded(fleet, hosts_without_organization=True, interfaces_left_out="lan?, docker*")
    assert registry.refusal(None) is None
    assert list(registry.interfaces_left_out) == ["lan?", "docker*"]


def test_nobody_may_send_where_nobody_is_registered(shared_stores: Stores) -> None:
    registry = loaded(shared_stores)
    assert (registry.organizations, registry.devices, registry.hosts) == (frozenset(), {}, {})
    assert registry.refusal(ORG) == "unknown_organization"
