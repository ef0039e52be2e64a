"""`script/bench precision`: how much quantized weights and 8-bit products change images."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import PIL.Image

from benchmarks.hardware import made_by
from benchmarks.held_out import held_out_requests
from benchmarks.measure import computed_steps
from benchmarks.options import as_given, held_out_options, some_of
from benchmarks.quality import STEPS, compare, load
from benchmarks.report import Row, write
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.quantized_linear import QuantizedLinear
from dream_o.runtime.devices import pick_device
from dream_o.service.generator import DreamO
from dream_o.service.request import Request
from dream_o.service.settings import Settings
from dream_o.weights.build.quantize import quantize
from dream_o.weights.format.layout import KINDS

DTYPE = "bfloat16"
"""The dtype of everything that is not in 8 or 4 bits, as on a GPU."""

# The precisions that `fast` multiplies in eight bits.
EIGHT_BITS = ("int8", "fp8")

TEXT = """# Precision: images of quantized bundles against exact float32

{count} requests of the bundle {weights}: the held-out requests of [quality](quality.md), seeds 0,
1, 2, ... without selection, {size} x {size} pixels, {steps} steps. Each row is compared with
`exact` in float32 with unquantized weights. *PSNR* (dB) and *largest difference* (of 255) are of
the 8-bit images; *PSNR* is the median of all requests, *least PSNR* the smallest. Everything that
is not quantized is bfloat16. *products* is the dtype in which the blocks' layers multiply: for int8
and fp8, their inputs are rounded to 8 bits too, each token with its own scale. Rows *fast, all
steps* run `fast` without skipping steps, so they show the 8-bit products alone.
{on_cpu}
Made by `script/bench precision`."""

ON_CPU = """
These rows were computed on a CPU, which `fast` was told has the 8-bit units of a GPU. The layers
are those that a GPU runs: they round each token to 8 bits and call the same two operators of torch,
`_int_mm` and `_scaled_mm`. int8 products are exact integers on both. fp8 products are summed in
float32 here; a GPU sums them with fewer bits (`use_fast_accum`), so its images differ more. What is
compiled around the products, and attention, differ by bfloat16 rounding. There are no times on this
page, because 8-bit products are slow on a CPU.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command line."""
    held_out_options(parser)
    some_of(parser, "--precisions", KINDS)


def run(
    output: Path,
    *,
    device: str = "auto",
    weights: Path = EMBEDDED_BUNDLE,
    count: int = 20,
    size: int = 768,
    precisions: Sequence[str] = KINDS,
) -> None:
    """Quantizes the bundle to each precision, runs every request, and writes the report."""
    where = pick_device(device)
    on_cpu = where.type == "cpu"
    units = _eight_bit_units if on_cpu else nullcontext
    settings = Settings(weights=str(weights), device=device, references="offline")
    text = TEXT.format(
        count=count,
        weights=weights.name,
        size=size,
        steps=STEPS,
        on_cpu=ON_CPU if on_cpu else "",
    )
    facts = made_by(
        "precision",
        where,
        weights=as_given(weights),
        count=count,
        size=size,
        precisions=",".join(precisions),
    )
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)  # the report keeps the rows so far if a later one fails
        write(output, "precision", text, rows, "PSNR", facts)

    with tempfile.TemporaryDirectory() as folder:
        requests = held_out_requests(Path(folder), count, size, STEPS)
        dream_o = load(settings, "exact", "float32")
        wanted = [dream_o.generate(request).image for request in requests]
        add(_row("exact", DTYPE, load(settings, "exact", DTYPE), requests, wanted))
        for precision in precisions:
            bundle = Path(folder) / precision
            quantize(weights, precision, bundle)
            quantized = replace(settings, weights=str(bundle))
            with units():
                dream_o = load(quantized, "exact", DTYPE)
            add(_row("exact", precision, dream_o, requests, wanted))
            if precision not in EIGHT_BITS:
                continue
            with units():
                dream_o = load(quantized, "fast", DTYPE)
            add(_row("fast", precision, dream_o, requests, wanted))
            dream_o.pipeline.transformer.disable_cache()
            add(_row("fast, all steps", precision, dream_o, requests, wanted))


@contextmanager
def _eight_bit_units() -> Iterator[None]:
    """Tells setup that the device has float8 units, and `fast` that it has int8 units."""
    with (
        patch("dream_o.service.generator.check_device"),
        patch("dream_o.runtime.layers.has_int8", return_value=True),
    ):
        yield


def _row(
    mode: str,
    precision: str,
    dream_o: DreamO,
    requests: Sequence[Request],
    wanted: Sequence[PIL.Image.Image],
) -> Row:
    transformer = dream_o.pipeline.transformer
    with computed_steps(transformer) as computed:
        images = [dream_o.generate(request).image for request in requests]
    in_eight_bits = any(
        isinstance(each, QuantizedLinear) and each.eight_bit_products
        for each in transformer.modules()
    )
    return {
        "what": f"{mode}, {precision}",
        "products": precision if in_eight_bits else DTYPE,
        "steps computed": len(computed) // len(requests),
        **compare(images, wanted),
    }
