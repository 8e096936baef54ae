"""How the steps of a run are executed: in the run's own process, unless RUN_EXECUTOR names another executor."""

from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any

import dagster as dg

from ninjait_pipelines.settings import Settings

# Only a run whose process died is retried (run_retries in dagster.yaml), and this tag says how often it has been.
RETRY_TAG = "dagster/retry_number"


class OneProcess(dg.Executor):
    """One process for all steps of a run: a process and its imports per step cost more than most steps.

    A step that kills its process takes those with it that have not run yet. The retry gives each step a process of its
    own: what kills its process again fails alone, and steps that do not depend on it succeed.
    """

    def __init__(self, together: dg.Executor, apart: dg.Executor) -> None:
        self._together = together
        self._apart = apart

    @property
    def retries(self) -> Any:
        return self._together.retries

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        died = RETRY_TAG in plan_context.dagster_run.tags
        chosen = self._apart if died else self._together
        yield from chosen.execute(plan_context, execution_plan)


@dg.executor(name="one_process")
def one_process_executor(init_context: dg.InitExecutorContext) -> dg.Executor:
    """One process per run; a process per step where the run's process has died before."""
    given = init_context._replace(executor_config={"retries": {"enabled": {}}})
    creators = (dg.in_process_executor.executor_creation_fn, dg.multiprocess_executor.executor_creation_fn)
    together, apart = (create(given) for create in creators if create)
    return OneProcess(together, apart)


def executor_from(settings: Settings) -> dg.ExecutorDefinition:
    """The executor of all jobs that have none of their own."""
    found: dg.ExecutorDefinition = (
        resolve_name(settings.run_executor) if settings.run_executor else one_process_executor
    )
    return found
