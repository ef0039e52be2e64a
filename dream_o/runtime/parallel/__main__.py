"""A follower process: makes the same calls of the transformer as rank 0."""

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NoReturn

from dream_o.importing import without_collections

with without_collections():
    import torch
    import torch.distributed as dist

    from dream_o.runtime.parallel.sharing import (
        OUT_OF_MEMORY,
        PATIENCE,
        allocate,
        join,
        share_tokens,
    )
    from dream_o.runtime.threads import suited_threads
    from dream_o.transformer import DreamOTransformer2DModel
    from dream_o.weights.format.bundle import read_bundle, torch_dtype
    from dream_o.weights.format.layout import KINDS
    from dream_o.weights.format.quantized import set_product_dtype

WATCH_SECONDS = 1.0


def load_transformer(bundle: Path, dtype: torch.dtype) -> DreamOTransformer2DModel:
    """Loads the transformer of a bundle onto the CPU; rank 0 has already checked the files.

    The modulation layers are left out, because rank 0 sends the modulation with each call.
    """
    transformer = DreamOTransformer2DModel.from_pretrained(
        bundle / "transformer", torch_dtype=dtype, use_safetensors=True, local_files_only=True
    )
    if read_bundle(bundle).precision in KINDS:
        set_product_dtype(transformer, dtype)
    for layer in transformer.modulation_layers():
        for name, _ in list(layer.named_parameters()):
            setattr(layer, name, None)
    return transformer.eval()


def follow() -> None:
    """Reads the configuration from the first line of standard input, then follows the calls."""
    # Only rank 0 handles Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Standard output is reserved for the answer `ready`; other output goes to the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(told["parent"],), daemon=True).start()
    device = torch.device(told["device"])
    transformer = load_transformer(Path(told["bundle"]), torch_dtype(told["dtype"])).to(device)
    config = share_tokens(transformer, told["ranks"])
    store = dist.TCPStore("127.0.0.1", told["port"], is_master=False, timeout=PATIENCE)
    print("ready", file=answers, flush=True)
    join(config, store, told["rank"], device)
    with torch.no_grad(), suited_threads(transformer):
        for line in sys.stdin:
            tensors: list[torch.Tensor] = []
            arguments = {
                name: allocate(value, device, tensors) for name, value in json.loads(line).items()
            }
            for tensor in tensors:
                dist.broadcast(tensor, src=0)
            transformer(**arguments)


def _end_with(parent: int) -> None:
    # During a call nothing reads standard input, so its end would not be noticed.
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def main() -> NoReturn:
    """Follows until rank 0 closes standard input; exits with OUT_OF_MEMORY if memory ran out."""
    code = 0
    try:
        follow()
    except torch.OutOfMemoryError:
        code = OUT_OF_MEMORY
    except Exception:
        traceback.print_exc()
        code = 1
    # Not sys.exit: an orderly exit would wait for ranks of the process group that have ended.
    os._exit(code)


if __name__ == "__main__":
    main()
