"""Runs that go on by one step at a time, so that a test says how two of them interleave, and where one dies."""

import queue
import threading
from collections.abc import Callable
from typing import Any


class Died(Exception):
    """Here the process was killed."""


class Paused:
    """A function in a thread of its own, which stops before each call of what `pausing` gives, until `step`."""

    def __init__(self, run: Callable[["Paused"], Any]) -> None:
        self.over = False
        self.last = ""  # the step that was taken last
        self.error: BaseException | None = None
        self._go: queue.Queue[bool] = queue.Queue()
        self._waits: queue.Queue[bool] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(run,), daemon=True)

    def _run(self, run: Callable[["Paused"], Any]) -> None:
        try:
            run(self)
        except Died:
            pass
        except BaseException as error:  # noqa: BLE001 -- raised by `step`
            self.error = error
        finally:
            self.over = True
            self._waits.put(True)

    def pausing(self, store: Any, *methods: str) -> Any:
        """The same store, which waits for `step` before each call of these methods."""
        paused = type(store).__new__(type(store))
        paused.__dict__.update(store.__dict__)
        for slot in ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"):
            object.__setattr__(paused, slot, getattr(store, slot, None))
        for name in methods:
            paused.__dict__[name] = self._before(name, getattr(store, name))
        return paused

    def _before(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*arguments: Any, **keywords: Any) -> Any:
            self._waits.put(True)
            if not self._go.get():
                raise Died
            self.last = name
            return call(*arguments, **keywords)

        return wait

    def step(self, alive: bool = True) -> None:
        """Lets it take one step, or die before it."""
        self.last = ""
        if not self._thread.ident:
            self._thread.start()
            self._waits.get(timeout=60)
        if not self.over:
            self._go.put(alive)
            self._waits.get(timeout=60)
        if self.error:
            raise self.error

    def finish(self) -> None:
        while not self.over:
            self.step()
