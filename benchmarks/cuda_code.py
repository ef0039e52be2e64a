"""`script/check-cuda`: checks the code that torch's compiler generates for GPUs, without a GPU.

The block functions are compiled for each compute capability, at FLUX.1-dev's width, with torch's
CUDA build. The check fails if a block uses more kernels than LIMITS allows, if a product uses an
operator that is slow on CUDA, or if another number of tokens compiles a graph again.
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks import ROOT

CAPABILITIES = ("8.0", "8.6", "8.9", "9.0", "10.0")
FLOAT8_CAPABILITY = (8, 9)
REPORT = ROOT / "docs" / "benchmarks" / "cuda-code.md"

# The bundle's precision and whether its products are in eight bits, by their name in the table.
CASES = {
    "bfloat16": ("bfloat16", False),
    "int8": ("int8", False),
    "int8, fast": ("int8", True),
    "fp8": ("fp8", False),
    "fp8, fast": ("fp8", True),
    "int4": ("int4", False),
}
FUNCTIONS = ("double_block", "single_block", "last_block")

# torch's weight-only product, which is a scalar float32 loop on CUDA.
SLOW = "_weight_int8pack_mm"

# The most Triton kernels that a function may take, and its products. In int8, fp8 and int4 each
# weight needs one more kernel, which converts it to bfloat16; the last block's projections are
# separate.
LIMITS: dict[str, dict[str, tuple[int, int]]] = {
    "bfloat16": {"double_block": (14, 8), "single_block": (4, 3), "last_block": (5, 5)},
    "int8": {"double_block": (22, 8), "single_block": (7, 3), "last_block": (10, 5)},
    "int8, fast": {"double_block": (13, 8), "single_block": (6, 3), "last_block": (9, 5)},
    "fp8": {"double_block": (22, 8), "single_block": (7, 3), "last_block": (10, 5)},
    "fp8, fast": {"double_block": (16, 8), "single_block": (4, 3), "last_block": (6, 5)},
    "int4": {"double_block": (22, 8), "single_block": (7, 3), "last_block": (10, 5)},
}

# Text, image and references: 1024 x 1024 without references and with two, 768 x 1024 with one.
LENGTHS = ((512, 4096, 0), (512, 4096, 2048), (512, 3072, 1024))

TEXT = """# The code that torch's compiler generates for CUDA

torch {torch}, triton {triton}; made without a GPU: tensors are fake and the code is not run. Each
block function is compiled at FLUX.1-dev's width (3072) for three lengths and, if single-stream, for
two blocks; *graphs* is the number of graphs for all of these. *Kernels* are Triton's;
*products* and *others* are calls of torch's operators in the graph. An fp8 bundle needs a GPU of
compute capability 8.9. Made by `script/check-cuda` on {date}.

| GPU | bundle | function | graphs | kernels | products | others |
| --- | --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Row:
    """One function's code.

    Attributes:
        capability: the GPU's compute capability, such as `9.0`.
        case: a key of CASES.
        function: one of FUNCTIONS.
        graphs: the number of graphs compiled for all lengths and blocks.
        kernels: the number of Triton kernels that a call starts.
        operators: the other operators that it calls, with their counts.
    """

    capability: str
    case: str
    function: str
    graphs: int
    kernels: int
    operators: dict[str, int]

    @property
    def products(self) -> int:
        """The number of calls of operators that multiply matrices."""
        return sum(n for name, n in self.operators.items() if name.endswith("mm"))

    def problems(self) -> Iterator[str]:
        """Yields a sentence for each problem of the code."""
        where = f"compute capability {self.capability}, {self.case}, {self.function}"
        if self.graphs != 1:
            yield f"{where}: {self.graphs} graphs; another number of tokens compiles again"
        if SLOW in self.operators:
            yield f"{where}: {self.operators[SLOW]} products by {SLOW}, which is slow on CUDA"
        kernels, products = LIMITS[self.case][self.function]
        if self.kernels > kernels:
            yield f"{where}: {self.kernels} kernels; at most {kernels} are allowed"
        if self.products != products:
            yield f"{where}: {self.products} products instead of {products}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the table; returns 1, with a line for each problem, if there are any."""
    parser = argparse.ArgumentParser(prog="script/check-cuda", description=__doc__)
    parser.add_argument("--output", type=Path, default=REPORT, help="the table (%(default)s)")
    parser.add_argument("--capability", choices=CAPABILITIES, help="print one GPU's rows as JSON")
    options = parser.parse_args(arguments)
    if torch.version.cuda is None:
        print(
            "error: this torch is not built for CUDA; run script/check-cuda on x86-64 Linux",
            file=sys.stderr,
        )
        return 1
    if options.capability:
        print(json.dumps([asdict(row) for row in rows_of(options.capability)]))
        return 0
    rows: list[Row] = []
    for capability in CAPABILITIES:
        # Each process can pretend only one GPU.
        command = [sys.executable, "-m", "benchmarks.cuda_code", "--capability", capability]
        print(f"compute capability {capability}", file=sys.stderr, flush=True)
        answer = subprocess.run(  # noqa: S603 - its arguments are those above
            command, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        rows += [Row(**each) for each in json.loads(answer)]
    options.output.write_text(report(rows))
    problems = [problem for row in rows for problem in row.problems()]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def report(rows: Sequence[Row]) -> str:
    """The report; capabilities with the same code share a row."""
    import triton

    text = TEXT.format(torch=torch.__version__, triton=triton.__version__, date=date.today())
    same: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        others = sorted((k, n) for k, n in row.operators.items() if not k.endswith("mm"))
        products = sorted((k, n) for k, n in row.operators.items() if k.endswith("mm"))
        line = (row.case, row.function, row.graphs, row.kernels, _told(products), _told(others))
        same.setdefault(line, []).append(row.capability)
    for line, capabilities in same.items():
        text += f"| {', '.join(capabilities)} | {' | '.join(map(str, line))} |\n"
    return text


def _told(counted: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counted) or "none"


def rows_of(capability: str) -> Iterator[Row]:
    """Yields the rows of one GPU; from here on torch sees this GPU in the process."""
    from benchmarks.pretended_gpu import pretend

    major, minor = map(int, capability.split("."))
    codes = pretend((major, minor))
    _use_flash_attention()
    for case, (precision, fast) in CASES.items():
        if precision == "fp8" and (major, minor) < FLOAT8_CAPABILITY:
            continue
        print(f"  {case}", file=sys.stderr, flush=True)
        for function, calls in calls_of(precision, fast):
            codes.clear()
            torch._dynamo.reset()
            compiled = torch.compile(function, dynamic=True, fullgraph=True)
            for call in calls:
                _generate(compiled, call)
            yield Row(capability, case, function.__name__, len(codes), *counts(codes[-1]))


def _generate(compiled: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    from benchmarks.pretended_gpu import CodeNotRunError

    try:
        with torch.no_grad():
            compiled(*arguments)
    except CodeNotRunError:
        return
    raise AssertionError("the code was run")


def counts(code: str) -> tuple[int, dict[str, int]]:
    """The number of kernels that a graph's code starts, and its calls of other operators."""
    body = code[code.index("def call(") :]
    operators = Counter(
        name.rpartition(".")[2] if name.startswith("extern_kernels") else name.split(".")[3]
        for name in re.findall(r"(extern_kernels\.\w+|torch\.ops\.\w+\.\w+(?:\.\w+)*)\(", body)
    )
    return len(re.findall(r"\.run\(", body)), dict(operators)


def calls_of(
    precision: str, fast: bool
) -> Iterator[tuple[Callable[..., Any], list[tuple[Any, ...]]]]:
    """Yields each block function with its arguments, as fake CUDA tensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    from dream_o.blocks import DOUBLE_ROWS, SINGLE_ROWS, double_block, last_block, single_block

    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True):
        transformer = fake_transformer(precision, fast)
        width = transformer.inner_dim
        doubles, singles = transformer.transformer_blocks, transformer.single_transformer_blocks

        def tokens(count: int) -> torch.Tensor:
            return torch.empty(1, count, width, dtype=torch.bfloat16, device="cuda")

        def rotary(count: int) -> torch.Tensor:
            return torch.empty(count, 64, 2, device="cuda")

        double, single, last = [], [], []
        for text, image, references in LENGTHS:
            total = text + image + references
            places, of_single = rotary(total), tokens(SINGLE_ROWS)
            double.append(
                (doubles[0], tokens(text), tokens(total - text), tokens(DOUBLE_ROWS), places, None)
            )
            single += [(block, tokens(total), of_single, places, None) for block in singles]
            last.append((singles[-1], tokens(total), of_single, places, None, text, image))
        yield double_block, double
        yield single_block, single
        yield last_block, last


def fake_transformer(precision: str, fast: bool) -> Any:
    """Two blocks of each kind at full width on CUDA, after `prepare_blocks`.

    Call it in a mode in which tensors are fake.
    """
    from dream_o.runtime.speed import prepare_blocks
    from dream_o.transformer import DreamOTransformer2DModel
    from dream_o.weights.build.quantize import kinds
    from dream_o.weights.format.quantized import is_quantized, set_product_dtype

    transformer = DreamOTransformer2DModel(num_layers=2, num_single_layers=2)
    for name, parameter in list(transformer.named_parameters()):
        value = torch.empty(parameter.shape, dtype=torch.bfloat16, device="cuda")
        if precision in kinds() and is_quantized("transformer", name, value.ndim):
            value = kinds()[precision].quantize(value.float(), torch.bfloat16)
        module, _, leaf = name.rpartition(".")
        held = torch.nn.Parameter(value, requires_grad=False)
        setattr(transformer.get_submodule(module), leaf, held)
    set_product_dtype(transformer, torch.bfloat16)
    prepare_blocks(transformer, "fast" if fast else "compiled", "none", torch.device("cuda"))
    return transformer.eval()


def _use_flash_attention() -> None:
    """Makes torch use flash attention, which it would otherwise ask the GPU for."""

    def attention(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
    ) -> torch.Tensor:
        seen: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[
            0
        ]
        return seen

    torch.nn.functional.scaled_dot_product_attention = attention


if __name__ == "__main__":
    sys.exit(main())
