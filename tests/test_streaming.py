"""Streamed weights: what is copied when, and images that stay the same.

The device is a second place in the CPU's memory. Copies are late here: what a slot holds is spoiled
when its copy is started, and comes when it is waited for.
"""

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from dream_o.library_internals import quick_tracing
from dream_o.pipeline import DreamOPipeline
from dream_o.runtime import speed, streaming
from dream_o.runtime.copies import SLOTS, CudaCopies, HostCopies
from dream_o.runtime.placing import apply_placement
from dream_o.runtime.plans import PLANS, Placement
from dream_o.runtime.streaming import Streamed
from dream_o.step_reuse import enable_step_reuse
from tests.pipelines import pipeline_of
from tests.sampled import TEXT_TOKENS

CPU = torch.device("cpu")
DOUBLES, SINGLES, T5_BLOCKS = 2, 3, 2
"""Blocks of the parity model."""


class LateCopies(HostCopies):
    """Copies that come when they are waited for, and a list of those that were started."""

    def __init__(self) -> None:
        self.queue: list[tuple[int, torch.Tensor, Sequence[torch.Tensor]]] = []
        self.started: list[int] = []  # the identities of the master copies
        self.failing = False

    def start(self, slot: int, buffer: torch.Tensor, parts: Sequence[torch.Tensor]) -> None:
        if self.failing:
            raise torch.OutOfMemoryError
        self.started.append(id(parts))
        buffer.fill_(255)  # no number, in every dtype of floating point
        self.queue.append((slot, buffer, parts))

    def wait(self, slot: int) -> None:
        while any(queued[0] == slot for queued in self.queue):
            super().start(*self.queue.pop(0))


@pytest.fixture
def copies(monkeypatch) -> LateCopies:
    late = LateCopies()
    monkeypatch.setattr(streaming, "copies_to", lambda device: late)
    return late


@pytest.fixture(scope="module")
def bundles(fused, quantized):
    quantized_bundles = {to: quantized(to) for to in ("int8", "fp8", "int4")}
    return {"unquantized": fused("v1.1", True), **quantized_bundles}


def latents_of(pipeline, **options) -> torch.Tensor:
    size = {"height": 64, "width": 64, "max_sequence_length": TEXT_TOKENS}
    options = size | {"num_inference_steps": 2} | options
    generator = torch.Generator().manual_seed(1)
    return pipeline("a dog", generator=generator, output_type="latent", **options).images


def parameter_counts(pipeline: DreamOPipeline) -> dict[str, int]:
    """Parameters by model; one that stands in two places counts once."""
    return {
        name: sum(parameter.numel() for parameter in model.parameters())
        for name, model in pipeline.components.items()
        if isinstance(model, torch.nn.Module)
    }


def started_units(streamed: Streamed, copies: LateCopies) -> list[int]:
    """The indices of the units whose copies were started since the last call."""
    indices = {id(master): index for index, master in enumerate(streamed.masters)}
    units = [indices[each] for each in copies.started]
    copies.started.clear()
    return units


@pytest.fixture(scope="module")
def as_loaded(bundles):
    """`as_loaded(precision, dtype)`: parameters by model, and latents, of weights that stay."""

    @functools.cache
    def make(precision, dtype):
        pipeline = pipeline_of(bundles[precision], dtype)
        return parameter_counts(pipeline), latents_of(pipeline)

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("precision", ["unquantized", "int8", "fp8", "int4"])
@pytest.mark.parametrize("plan", PLANS)
def test_the_latents_are_those_of_weights_that_stay(
    plan, precision, dtype, bundles, copies, as_loaded
):
    parameters, expected = as_loaded(precision, dtype)
    pipeline = pipeline_of(bundles[precision], dtype)
    apply_placement(pipeline, Placement(plan, 4 if plan == "blocks" else 0), CPU)
    # Tied parameters, as T5's embedding is, stay tied: apart they would take their memory twice.
    assert parameter_counts(pipeline) == parameters
    assert torch.equal(latents_of(pipeline), expected)
    assert bool(copies.started) == (plan != "none")
    assert torch.equal(latents_of(pipeline), expected)


def test_every_unit_is_copied_once_as_it_is_needed_and_the_blocks_once_a_step(bundles, copies):
    pipeline = pipeline_of(bundles["unquantized"])
    streamed = apply_placement(pipeline, Placement("blocks", 4), CPU)
    before_the_loop = T5_BLOCKS + 2 * DOUBLES + SINGLES + 1
    assert streamed.loop_start == before_the_loop
    once, blocks = range(before_the_loop), range(before_the_loop, before_the_loop + 4)
    latents_of(pipeline, num_inference_steps=3)
    # The last block is followed by the first of a step that does not come: it is there already.
    assert started_units(streamed, copies) == [*once, *blocks, *blocks, *blocks, blocks[0]]
    encoded = pipeline.encode_prompt("a dog")
    assert started_units(streamed, copies) == [0, 1, 2]
    pipeline(encoded, height=64, width=64, num_inference_steps=1, output_type="latent")
    assert started_units(streamed, copies)[:3] == [3, 4, 5], "the modulation begins where T5 ends"


def test_blocks_that_stay_are_not_copied_and_singles_are_streamed_first(bundles, copies):
    pipeline = pipeline_of(bundles["unquantized"])
    blocks = pipeline.transformer.single_transformer_blocks
    before = {id(block): block.attn.to_q.weight.data_ptr() for block in blocks}
    streamed = apply_placement(pipeline, Placement("blocks", 2), CPU)
    moved = [block.attn.to_q.weight.data_ptr() != before[id(block)] for block in blocks]
    assert sum(moved) == 2
    assert len(streamed.masters) - streamed.loop_start == 2


def test_addresses_never_change_and_no_more_than_the_slots_are_held(bundles, copies):
    pipeline = pipeline_of(bundles["unquantized"])
    streamed = apply_placement(pipeline, Placement("blocks", 4), CPU)
    parameters = dict(pipeline.transformer.named_parameters())
    before = {name: each.data_ptr() for name, each in parameters.items()}
    latents_of(pipeline)
    after = dict(pipeline.transformer.named_parameters())
    assert {name: each.data_ptr() for name, each in after.items()} == before
    ranges = [(slot.data_ptr(), slot.data_ptr() + len(slot)) for slot in streamed.slots]
    assert len(ranges) == SLOTS
    inside = [
        name
        for name, address in before.items()
        if any(start <= address < end for start, end in ranges)
    ]
    assert any(name.startswith("transformer_blocks.1.ff.") for name in inside)
    assert not any(name.startswith(("x_embedder", "proj_out")) for name in inside)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, KeyboardInterrupt])
def test_a_request_that_ends_within_a_block_is_followed_by_a_right_one(bundles, copies, error):
    pipeline = pipeline_of(bundles["unquantized"])
    expected = latents_of(pipeline)
    apply_placement(pipeline, Placement("blocks", 4), CPU)
    assert torch.equal(latents_of(pipeline), expected)
    for block in (*pipeline.transformer.transformer_blocks, pipeline.transformer.proj_out):

        def fail(*_):
            raise error

        hook = block.register_forward_pre_hook(fail)
        with pytest.raises(error):
            latents_of(pipeline)
        hook.remove()
        assert torch.equal(latents_of(pipeline), expected)


def test_a_copy_that_fails_is_made_again(bundles, copies):
    pipeline = pipeline_of(bundles["unquantized"])
    expected = latents_of(pipeline)
    apply_placement(pipeline, Placement("blocks", 4), CPU)
    copies.failing = True
    with pytest.raises(torch.OutOfMemoryError):
        latents_of(pipeline)
    copies.failing = False
    assert torch.equal(latents_of(pipeline), expected)


def test_true_cfg_and_references_find_their_weights(bundles, copies):
    options = {"true_cfg_scale": 2.0, "negative_prompt": "dark", "cfg_start_step": 1}
    pipeline = pipeline_of(bundles["unquantized"])
    expected = latents_of(pipeline, **options)
    apply_placement(pipeline, Placement("blocks", 4), CPU)
    assert torch.equal(latents_of(pipeline, **options), expected)


def test_steps_that_are_left_out_copy_nothing(bundles, copies):
    pipeline = pipeline_of(bundles["unquantized"])
    streamed = apply_placement(pipeline, Placement("blocks", 4), CPU)
    enable_step_reuse(pipeline.transformer, first=2, every=2)
    latents_of(pipeline, num_inference_steps=8)
    units = started_units(streamed, copies)
    last = streamed.loop_start + 3
    assert units.count(last) == 5, "steps 0, 1, 3, 5 and 7 are computed"


# tests/test_compiled.py compiles blocks that are not quantized.
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_streamed_blocks_compile_once(precision, bundles, copies, monkeypatch):
    # Not 64 x 64: those are as many tokens as a head has pairs of channels, and torch's compiler
    # takes two equal sizes for the same one.
    pipeline, size = pipeline_of(bundles[precision]), {"height": 64, "width": 80}
    expected = latents_of(pipeline, **size)
    speed.prepare_blocks(pipeline.transformer, "compiled", "blocks", CPU)
    apply_placement(pipeline, Placement("blocks", 4), CPU)
    torch.compiler.reset()  # other tests of this process compiled the same functions
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="eager"))
    speed.compile_blocks(pipeline.transformer)
    before = counters["stats"]["unique_graphs"]
    with quick_tracing():
        first = latents_of(pipeline, **size)
    assert torch.equal(latents_of(pipeline, **size), first)
    assert (first - expected).norm() < 1e-4 * expected.norm()
    assert latents_of(pipeline, height=64, width=96).isfinite().all()
    kinds = 3  # double_block, single_block and last_block
    assert counters["stats"]["unique_graphs"] - before == kinds


def test_tensors_that_share_memory_share_it_in_the_slot(bundles, copies):
    pipeline = pipeline_of(bundles["unquantized"])
    expected = latents_of(pipeline)
    speed.fuse_projections(pipeline.transformer, CPU)
    fused = latents_of(pipeline)
    assert (fused - expected).norm() < 1e-5 * expected.norm()
    apply_placement(pipeline, Placement("blocks", 4), CPU)
    attention = pipeline.transformer.transformer_blocks[0].attn
    assert attention.to_q.weight.data_ptr() == attention.to_qkv.weight.data_ptr()
    assert torch.equal(latents_of(pipeline), fused)


def test_master_copies_of_several_parts_are_whole(monkeypatch):
    monkeypatch.setattr(streaming, "PART", 1000)
    layers = [torch.nn.Linear(33, 17) for _ in range(3)]
    given = torch.randn(2, 33)
    expected = [layer(given) for layer in layers]
    streamed = Streamed(layers, 0, CPU)
    assert len(streamed.masters[0]) > 2
    for _ in range(2):
        assert all(
            torch.equal(layer(given), each) for layer, each in zip(layers, expected, strict=True)
        )


def test_on_cuda_copies_wait_for_what_was_given_to_compute_and_computing_for_copies(monkeypatch):
    events = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            events.append(f"{self.name} waits for what {other.name} has")

        def wait_event(self, event):
            events.append(f"{self.name} waits for {event.name}")

    class Event:
        made = 0

        def __init__(self):
            self.name = f"slot {Event.made}"
            Event.made += 1

        def record(self, stream):
            events.append(f"{self.name} done on {stream.name}")

    computing = Stream("computing")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copying"))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(CudaCopies, "allocate", HostCopies.allocate)
    layers = [torch.nn.Linear(8, 8) for _ in range(4)]
    given = torch.randn(1, 8)
    expected = [layer(given) for layer in layers]
    Streamed(layers, 0, CPU, CudaCopies(torch.device("cuda")))
    for layer, wanted in zip(layers, expected, strict=True):
        assert torch.equal(layer(given), wanted)
    copied = [
        ["copying waits for what computing has", f"slot {slot} done on copying"]
        for slot in (0, 1, 0, 1, 0)
    ]
    # Layer 0 brings layers 0 and 1, each further one the next; the last brings the first again.
    assert events == [
        *copied[0],
        *copied[1],
        "computing waits for slot 0",
        *copied[2],
        "computing waits for slot 1",
        *copied[3],
        "computing waits for slot 0",
        *copied[4],
        "computing waits for slot 1",
    ]
