"""Documents in Dragonfly."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from ninjait_pipelines.keys import as_of_text
from ninjait_pipelines.resources import Stores


@pytest.mark.parametrize("spoil", ["SET", "RPUSH"])
def test_a_key_that_holds_something_else_is_replaced(stores: Stores, spoil: str) -> None:
    """One foreign value kept 499 devices out of the cache, in every batch; later it failed every run of the caches."""
    spoiled = ("no document", "[1]", "7", '{"as_of": 9}', '{"as_of": {}, "week": 1}', "null", "[" * 2000)
    for number, value in enumerate(spoiled):
        stores.dragonfly.client.execute_command(spoil, str(number), value)
    documents = [(str(number), {"as_of": "1"}) for number in range(len(spoiled) + 2)]
    assert stores.dragonfly.set_many_if_newer(documents) == len(documents)
    assert set(stores.dragonfly.client.mget([key for key, _ in documents])) == {'{"as_of":"1"}'}


def test_only_a_document_of_the_same_revision_is_renewed(stores: Stores) -> None:
    client, own = stores.dragonfly.client, {"organization_id": "a", "as_of": _text(2), "revision": "r"}
    held = {"same": own, "newer": own | {"as_of": _text(4)}, "other": own | {"revision": "s"}}
    held |= {"none": own | {"revision": ""}, "another form": own | {"as_of": "2"}, "nested": {"a": own, "as_of": ""}}
    stores.dragonfly.set_many_if_newer(held.items())
    client.set("text", "r")
    client.rpush("list", "r")
    revisions = dict.fromkeys([*held, "text", "list", "missing"], "r") | {"none": ""}
    before = {key: client.get(key) for key in (*held, "text")}
    ttl = timedelta(minutes=1)
    assert stores.dragonfly.renew(revisions, _text(3), ttl) == {"same", "newer"}
    after = before | {"same": before["same"].replace(_text(2), _text(3))}
    assert {key: client.get(key) for key in before} == after
    assert [key for key in revisions if client.ttl(key) > 0] == ["same"]
    assert stores.dragonfly.renew({}, _text(3)) == set()


def _text(second: int) -> str:
    return as_of_text(datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC))


def test_an_older_document_replaces_neither_a_document_nor_a_week(stores: Stores) -> None:
    """The first bytes say the version, unless there is a week, which may stand anywhere."""
    pad = {"text": "}" * 300}
    for older, newer in (
        ({"as_of": _text(1)}, {"as_of": _text(2)}),
        ({"as_of": _text(2)} | pad | {"week": "2026-01-05"}, {"as_of": _text(1)} | pad | {"week": "2026-01-12"}),
    ):
        stores.dragonfly.client.delete("key")
        assert stores.dragonfly.set_if_newer("key", older)
        assert stores.dragonfly.set_if_newer("key", newer)
        assert not stores.dragonfly.set_if_newer("key", older)
        assert stores.dragonfly.set_if_newer("key", newer), "the same again"


def test_half_a_document_is_replaced(stores: Stores) -> None:
    stores.dragonfly.client.set("key", msgspec.json.encode({"as_of": _text(9), "text": ""})[:-1])
    assert stores.dragonfly.set_if_newer("key", {"as_of": _text(1)})
