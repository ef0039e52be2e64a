"""`script/bench setup`: from files to a pipeline, with a bundle and in the original's way."""

import tempfile
from pathlib import Path

import torch

from benchmarks.hardware import run_today
from benchmarks.measure import Measured, as_row, folder_bytes, measure, median
from benchmarks.models import Size, generate_adapters, generate_base
from benchmarks.report import write
from dream_o.weights.build.fuse import fuse
from dream_o.weights.build.quantize import quantize

TEXT = """# Setup: a bundle against base and adapters

A generated model with random weights in bfloat16, with adapters of rank 128 like DreamO's. *the
original's way* loads the base model with diffusers, adds the ten tokens, loads five LoRAs with
peft, fuses and unloads them. The bundles were made from the same files by `fuse` and `quantize`;
their seconds include the check of every file's SHA-256. Each row is the median of three
processes, which alternate, with files in the page cache. Seconds start after the imports and end
with a pipeline on the CPU. *peak GB* includes only the mapped pages that were used: most are read
from the page cache when they are moved to the device. *linear GB* is the size of the
transformer's and T5's files.
Made by `script/bench setup`."""

SIZE = Size(rank=128)

LOAD_BUNDLE = """
pipeline = DreamOPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
"""

ORIGINAL_IMPORTS = """
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file
from dream_o.weights.build.recipe import EXTRA_TOKENS, TABLES, low_ranks, recipe
import diffusers.loaders.lora_pipeline, peft
"""

ORIGINAL = """
pipeline = FluxPipeline.from_pretrained(base, torch_dtype=torch.bfloat16)
pipeline.tokenizer_2.add_tokens(list(EXTRA_TOKENS))
pipeline.text_encoder_2.resize_token_embeddings(len(pipeline.tokenizer_2))
weights = {}
for number, step in enumerate(recipe("v1.1", turbo=True)):
    tensors = load_file(f"{adapters}/{step.file}")
    state = {}
    for low_rank in low_ranks(step, tensors):
        up = tensors[low_rank.up].chunk(low_rank.parts)[low_rank.part].contiguous()
        state[f"transformer.{low_rank.module}.lora_A.weight"] = tensors[low_rank.down]
        state[f"transformer.{low_rank.module}.lora_B.weight"] = up
    pipeline.load_lora_weights(state, adapter_name=f"a{number}")
    weights[f"a{number}"] = step.weight
pipeline.set_adapters(list(weights), list(weights.values()))
pipeline.fuse_lora(adapter_names=list(weights), lora_scale=1)
pipeline.unload_lora_weights()
"""


def run(output: Path, repeats: int = 3) -> None:
    """Generates the model, measures the ways alternately and writes the report."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base, adapters = folder / "base", folder / "adapters"
        parameters = generate_base(base, SIZE, torch.bfloat16)
        generate_adapters(adapters, SIZE, torch.bfloat16)
        fuse(base, adapters, "v1.1", folder / "bundle")
        quantize(folder / "bundle", "int8", folder / "int8")

        def original() -> Measured:
            return measure(ORIGINAL_IMPORTS, ORIGINAL, base=str(base), adapters=str(adapters))

        def bundle(name: str) -> Measured:
            imports = "import torch\nfrom dream_o.pipeline import DreamOPipeline"
            return measure(imports, LOAD_BUNDLE, folder=str(folder / name))

        turns = [(original(), bundle("bundle"), bundle("int8")) for _ in range(repeats)]
        names = ("the original's way", "bundle, bfloat16", "bundle, int8")
        sizes = (base, folder / "bundle", folder / "int8")
        rows = [
            as_row(
                name,
                median([turn[place] for turn in turns]),
                **{"linear GB": round(_linear_bytes(held) / 1e9, 3)},
            )
            for place, (name, held) in enumerate(zip(names, sizes, strict=True))
        ]
        linear = [_linear_bytes(held) for held in sizes]
    seconds = [median([turn[place] for turn in turns]).seconds for place in range(3)]
    facts = run_today("setup") | {
        "parameters": parameters,
        "times faster, bfloat16 bundle": round(seconds[0] / seconds[1], 1),
        "times faster, int8 bundle": round(seconds[0] / seconds[2], 1),
        "int8 of the bfloat16 bytes": round(linear[2] / linear[1], 3),
        "int8 of the float32 bytes (twice bfloat16)": round(linear[2] / linear[1] / 2, 3),
    }
    write(output, "setup", TEXT, rows, "seconds", facts)


def _linear_bytes(folder: Path) -> int:
    return sum(folder_bytes(folder / name) for name in ("transformer", "text_encoder_2"))
