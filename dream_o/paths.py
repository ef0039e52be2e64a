"""Where files are: those that the package ships, and those that a user adds.

In a clone both are in the clone. In an installed package the shipped files are inside the package,
and a user's weights are in the user's data folder.
"""

import os
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
IMPORT_ROOT = _PACKAGE.parent
"""The folder that must be on `sys.path` to import this package."""

IN_CLONE = (IMPORT_ROOT / "predict.py").is_file() and (
    IMPORT_ROOT / "weights" / "miniature"
).is_dir()
"""Whether the package runs from a clone (or an editable install of one)."""


def _user_data() -> Path:
    # XDG Base Directory Specification: the default of XDG_DATA_HOME.
    try:
        home = Path.home() / ".local" / "share"
    except RuntimeError:  # a user without a home folder
        home = Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_DATA_HOME") or home, "dream-o")


SHIPPED = IMPORT_ROOT if IN_CLONE else _PACKAGE / "data"
"""`predict.py` and `weights/`, as they are in the repository."""
HOME = IMPORT_ROOT if IN_CLONE else _user_data()
"""The folder for everything that a user downloads or makes."""

EMBEDDED_BUNDLE = SHIPPED / "weights" / "miniature"
MANIFEST = SHIPPED / "weights" / "manifest.toml"
MODELS = SHIPPED / "weights" / "models.toml"
WEIGHTS = HOME / "weights"
REFERENCE_NETWORKS = WEIGHTS / "references"
