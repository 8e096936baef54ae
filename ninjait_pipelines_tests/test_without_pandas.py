"""Arrow does without pandas, and has it when it is asked for."""

import subprocess
import sys

SCRIPT = """
import sys
import ninjait_pipelines.resources
import pyarrow as pa

table = pa.table({"column": [1, 2]})
print("pandas" in sys.modules)
print(table.to_pandas()["column"].sum())

import pandas as pd

print(pa.array(pd.Series([1.5, None])).null_count)
"""


def test_arrow_imports_pandas_only_when_it_is_asked_for_it() -> None:
    """Every run and every drain imported it at its first pa.array: 0.6 s of processor time, and 50 MiB."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "3", "1"]
