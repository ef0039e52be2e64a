"""Every environment variable that the project reads, checked once at setup."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dream_o.errors import SettingError

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED_BUNDLE = ROOT / "weights" / "miniature"

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Settings:
    """The environment's variables, typed.

    Attributes:
        weights: DREAM_O_WEIGHTS, a bundle's folder; None stands for the best installed one.
        device: DREAM_O_DEVICE, `auto`, `cuda`, `cuda:N`, `mps` or `cpu`.
        dtype: DREAM_O_DTYPE, `auto` or the name of a torch dtype in DTYPES.
    """

    weights: str | None = None
    device: str = "auto"
    dtype: str = "auto"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """The settings of this process; SettingError names the first variable that is not allowed.

        An empty variable counts as one that is not set.
        """
        return cls(
            weights=environ.get("DREAM_O_WEIGHTS") or None,
            device=_matching(
                environ,
                "DREAM_O_DEVICE",
                "auto",
                r"auto|cpu|mps|cuda(:\d+)?",
                "auto, cuda, cuda:N, mps or cpu",
            ),
            dtype=_matching(environ, "DREAM_O_DTYPE", "auto", "|".join(DTYPES), ", ".join(DTYPES)),
        )


def _matching(
    environ: Mapping[str, str], variable: str, default: str, pattern: str, allowed: str
) -> str:
    value = environ.get(variable) or default
    if not re.fullmatch(pattern, value):
        raise SettingError(variable, value, allowed)
    return value
