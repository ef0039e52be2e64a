"""DreamO: images from a prompt and reference pictures, on FLUX.1-dev."""

import logging
import os
import tempfile
from pathlib import Path

__version__ = "0.1.0"

# Threads that wait for work sleep, in place of keeping a core busy that others need. OpenMP reads
# this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Where compiled code is kept (`dream_o.runtime.speed`). torch's own default, read at its import, is
# a temporary folder that does not outlive the machine's start or the server's end.
if not os.environ.get("TORCHINDUCTOR_CACHE_DIR"):
    try:
        _caches = Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        _caches = Path(tempfile.gettempdir())
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(
        Path(os.environ.get("XDG_CACHE_HOME") or _caches, "dream-o-compiled")
    )

# diffusers imports torchao at its own import, and that warns about kernels which are not used here.
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)
