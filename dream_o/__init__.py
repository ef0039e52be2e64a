"""DreamO: images from a prompt and reference images, on FLUX.1-dev."""

import logging
import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dream_o.version import __version__

if TYPE_CHECKING:
    from dream_o.pipeline import DreamOPipeline
    from dream_o.service.generator import DreamO
    from dream_o.service.request import Reference, Request

__all__ = ["DreamO", "DreamOPipeline", "Reference", "Request", "__version__"]

_HOMES = {
    "DreamO": "dream_o.service.generator",
    "DreamOPipeline": "dream_o.pipeline",
    "Reference": "dream_o.service.request",
    "Request": "dream_o.service.request",
}


def __getattr__(name: str) -> Any:
    """Imports a public class on first use, because importing torch takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Threads that wait for work sleep instead of spinning on a core that other processes need. OpenMP
# reads this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# The cache of compiled code (`dream_o.runtime.speed`). torch reads this at import; by default the
# cache is a temporary folder, which is lost when the machine restarts or the server ends.
if not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
    try:
        _caches = Path.home() / ".cache"
    except RuntimeError:  # a user without a home folder
        _caches = Path(tempfile.gettempdir())
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(
        Path(os.environ.get("XDG_CACHE_HOME") or _caches, "dream-o-compiled")
    )

# Importing diffusers imports torchao, which warns about kernels that are not used here, and
# transformers' image processors, which warn that torchvision is not installed.
for _name in (
    "torchao",
    "torch.utils._pytree",
    "diffusers.quantizers.torchao.torchao_quantizer",
    "transformers.utils.import_utils",
):
    logging.getLogger(_name).setLevel(logging.ERROR)
