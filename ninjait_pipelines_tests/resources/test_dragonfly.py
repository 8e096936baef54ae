"""Documents in Dragonfly."""

import pytest

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
