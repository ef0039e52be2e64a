"""All environment variables of the project, checked once at setup."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dream_o.errors import SettingError
from dream_o.runtime.plans import PLANS

# For one device and for several (with a comma): the allowed pattern, and its description.
DEVICE_FORMS = {
    False: (r"auto|cpu|mps|cuda(:\d+)?", "auto, cuda, cuda:N, mps or cpu"),
    True: (r"(cuda|cpu):\d+(,\d+)+", "cuda:N,M for several GPUs, cpu:N,M for several processes"),
}
DTYPES = ("auto", "float32", "bfloat16", "float16")
OFFLOADS = ("auto", *PLANS)
SPEEDS = ("auto", "exact", "compiled", "fast")
REFERENCE_BACKENDS = ("auto", "networks", "offline", "fetch")
KEY_HASH = r"scrypt:16384:8:1:[0-9a-f]{32}:[0-9a-f]{64}"
"""The format of a hash from `dream_o.dream_render.keys.hash_key`."""


@dataclass(frozen=True)
class Settings:
    """The environment variables, with types.

    Attributes:
        weights: DREAM_O_WEIGHTS, a bundle's folder or an address (`dream_o.weights.fetch.locate`);
            None for the best installed bundle.
        device: DREAM_O_DEVICE, `auto`, `cuda`, `cuda:N`, `mps` or `cpu`; or several devices as in
            `cuda:0,1` (GPUs) or `cpu:0,1` (processes), see `dream_o.runtime.parallel`.
        dtype: DREAM_O_DTYPE, `auto` or the name of a torch dtype in DTYPES.
        offload: DREAM_O_OFFLOAD, one of OFFLOADS; see `dream_o.runtime.plans`.
        resident_blocks: DREAM_O_RESIDENT_BLOCKS, how many of the transformer's blocks stay on the
            GPU if the others are streamed to it; None for as many as fit.
        speed: DREAM_O_SPEED, one of SPEEDS; see `dream_o.runtime.speed`.
        references: DREAM_O_REFERENCES, what prepares references: one of REFERENCE_BACKENDS, or the
            address of a folder that setup downloads the networks from.
        dev_keys: DREAM_RENDER_DEV_KEYS and the lines of DREAM_RENDER_DEV_KEYS_FILE, the accepted
            developer keys; never shown.
        dev_key_hashes: DREAM_RENDER_DEV_KEY_HASHES, salted hashes of further keys.
        fetched_models: DREAM_RENDER_FETCH, the checkpoints that setup downloads.
        model_memory: DREAM_RENDER_MODEL_MEMORY, GiB of checkpoints kept loaded.
        prompt_model: DREAM_RENDER_PROMPT_MODEL, a prompt model's name in `weights/models.toml`.
        log_prompts: DREAM_O_LOG_PROMPTS, whether a request's line in the log has its prompts.
    """

    weights: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    offload: str = "auto"
    resident_blocks: int | None = None
    speed: str = "auto"
    references: str = "auto"
    dev_keys: tuple[str, ...] = field(default=(), repr=False)
    dev_key_hashes: tuple[str, ...] = field(default=(), repr=False)
    fetched_models: tuple[str, ...] = ()
    model_memory: float = 12.0
    prompt_model: str = "embedded"
    log_prompts: bool = False

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """The settings of this process. An empty variable counts as unset.

        Raises:
            SettingError: a variable has a value that is not allowed; names the first one.
        """
        return cls(
            weights=environ.get("DREAM_O_WEIGHTS") or None,
            device=_matching(
                environ,
                "DREAM_O_DEVICE",
                "auto",
                *DEVICE_FORMS["," in environ.get("DREAM_O_DEVICE", "")],
            ),
            dtype=_matching(environ, "DREAM_O_DTYPE", "auto", "|".join(DTYPES), ", ".join(DTYPES)),
            offload=_matching(
                environ, "DREAM_O_OFFLOAD", "auto", "|".join(OFFLOADS), ", ".join(OFFLOADS)
            ),
            resident_blocks=_whole_number_or_auto(environ, "DREAM_O_RESIDENT_BLOCKS"),
            speed=_matching(environ, "DREAM_O_SPEED", "auto", "|".join(SPEEDS), ", ".join(SPEEDS)),
            references=_matching(
                environ,
                "DREAM_O_REFERENCES",
                "auto",
                "|".join(REFERENCE_BACKENDS) + r"|hf://.*",
                ", ".join(REFERENCE_BACKENDS) + " or hf://owner/repository/folder",
            ),
            dev_keys=_listed(environ, "DREAM_RENDER_DEV_KEYS") + _keys_of_file(environ),
            dev_key_hashes=_key_hashes(environ),
            fetched_models=_listed(environ, "DREAM_RENDER_FETCH"),
            model_memory=float(
                _matching(
                    environ,
                    "DREAM_RENDER_MODEL_MEMORY",
                    "12",
                    r"\d{1,6}(\.\d{1,6})?",
                    "a number of GiB, such as 12 or 7.5",
                )
            ),
            prompt_model=environ.get("DREAM_RENDER_PROMPT_MODEL") or "embedded",
            log_prompts=_matching(environ, "DREAM_O_LOG_PROMPTS", "0", "[01]", "0 or 1") == "1",
        )


def _listed(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    parts = environ.get(variable, "").split(",")
    return tuple(part.strip() for part in parts if part.strip())


def _keys_of_file(environ: Mapping[str, str]) -> tuple[str, ...]:
    variable = "DREAM_RENDER_DEV_KEYS_FILE"
    path = environ.get(variable)
    if not path:
        return ()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        raise SettingError(
            variable, path, "cannot be read; name a text file with one key per line"
        ) from None
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise SettingError(variable, path, "contains no key; write one key per line into it")
    return keys


def _key_hashes(environ: Mapping[str, str]) -> tuple[str, ...]:
    hashes = _listed(environ, "DREAM_RENDER_DEV_KEY_HASHES")
    if not all(re.fullmatch(KEY_HASH, each) for each in hashes):
        # Do not repeat the value: it may be a key.
        raise SettingError(
            "DREAM_RENDER_DEV_KEY_HASHES",
            "...",
            "contains something that is not a hash of a key; `dream-o render hash-key` makes one",
        )
    return hashes


def _whole_number_or_auto(environ: Mapping[str, str], variable: str) -> int | None:
    value = _matching(environ, variable, "auto", r"auto|\d{1,3}", "auto or a whole number")
    return None if value == "auto" else int(value)


def _matching(
    environ: Mapping[str, str], variable: str, default: str, pattern: str, allowed: str
) -> str:
    value = environ.get(variable) or default
    if not re.fullmatch(pattern, value):
        raise SettingError(variable, value, f"is not allowed; use {allowed}")
    return value
