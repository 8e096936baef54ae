"""Arrow without pandas: where pandas is installed (chDB, the local ClickHouse, needs it), Arrow imports it at the first
`pa.array`, which every run would pay for.

Arrow looks for it once. What it is asked for afterwards (`to_pandas`) it imports as ever.
"""

import sys
from importlib.abc import MetaPathFinder

import pyarrow as pa


class _NoPandas(MetaPathFinder):
    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("Arrow is to do without it", name=name)


def decide() -> None:
    """Lets Arrow look for pandas now, and not find it; does nothing where pandas has been imported already."""
    if "pandas" in sys.modules:
        return
    hidden = _NoPandas()
    sys.meta_path.insert(0, hidden)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(hidden)
