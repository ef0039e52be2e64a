"""DreamO: images from a prompt and reference pictures, on FLUX.1-dev."""

import logging
import os

__version__ = "0.1.0"

# Threads that wait for work sleep, in place of keeping a core busy that others need. OpenMP reads
# this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# diffusers imports torchao at its own import, and that warns about kernels which are not used here.
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)
