"""Where the project's folders are."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# The wheel has the SQL inside the package, and no folder of its own to write to: there it is the working directory.
_INSTALLED = (_PACKAGE / "sql").is_dir()
ROOT = Path.cwd() if _INSTALLED else _PACKAGE.parent
SQL = (_PACKAGE if _INSTALLED else ROOT) / "sql"
LOCAL_STACK = ROOT / ".ninjait"
