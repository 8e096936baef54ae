"""The health of all stores at once; shared by the asset store_health and by `ninjait status`."""

import time
from collections.abc import Callable, Mapping
from threading import Thread

from ninjait_pipelines.resources.store import Store, StoreStatus


def check_all(
    stores: Mapping[str, Store], seconds: float = 5, clock: Callable[[], float] = time.monotonic
) -> list[StoreStatus]:
    """Asks every store at the same time, and waits for the slowest at most `seconds`.

    A store that hangs is reported as down and left to its own time-out, in a thread that keeps nobody from exiting.
    """
    found: dict[str, StoreStatus] = {}

    def check(name: str, store: Store) -> None:
        try:
            found[name] = store.status()
        except Exception as error:  # noqa: BLE001 -- shown, not hidden: whatever a client throws, its store does not answer
            found[name] = StoreStatus(store.title, store.address, ok=False, problem=f"{store.title}: {error!r}")

    threads = [Thread(target=check, args=item, daemon=True) for item in stores.items()]
    for thread in threads:
        thread.start()
    deadline = clock() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - clock()))
    return [found.get(name) or _silent(store, seconds) for name, store in stores.items()]


def _silent(store: Store, seconds: float) -> StoreStatus:
    problem = f"{store.title} at {store.address}: no answer within {seconds:g} seconds."
    return StoreStatus(store.title, store.address, ok=False, problem=problem)
