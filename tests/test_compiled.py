"""Compiled blocks: one graph for all requests, and the images of the eager ones."""

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config

from benchmarks.measure import computed_steps
from dream_o.runtime import speed
from dream_o.service import generator
from dream_o.service.generator import DreamO
from dream_o.service.request import Request
from dream_o.service.settings import Settings
from dream_o.step_reuse import enable_step_reuse
from tests.sampled import difference, latents_of

CPU = torch.device("cpu")
SIZES = ((192, 192), (192, 256), (208, 224), (336, 144))


@pytest.fixture(scope="module")
def compiled(fused, tmp_path_factory):
    """A generator with compiled blocks, the folder of their code, and the number of graphs."""
    folder = tmp_path_factory.mktemp("compiled")
    torch.compiler.reset()  # other tests of this process compiled the same functions
    before = graphs_made()
    # To find the vector instructions of the CPU, torch compiles a file for each kind. That takes
    # longer than a block, and /proc/cpuinfo already names them.
    trusting = inductor_config.patch({"cpp.vec_isa_ok": True})
    with pytest.MonkeyPatch.context() as patch, trusting:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        patch.setattr(generator, "SMALL_WARM_UP", (256, (0,)))
        dream_o = DreamO.load(Settings(device="cpu", speed="compiled"), fused("v1.1", True))
        dream_o.pipeline.set_progress_bar_config(disable=True)
        yield dream_o, folder, {kind: count - before[kind] for kind, count in graphs_made().items()}


def graphs_made() -> dict[str, int]:
    """How many graphs torch has kept, and how many it has given to the code generator."""
    return {
        "kept": counters["stats"]["unique_graphs"],
        "generated": counters["aot_autograd"]["total"],
    }


class TestCompiled:
    def test_each_kind_of_block_is_compiled_once(self, compiled):
        kinds = 3  # double_block, single_block and last_block
        assert compiled[2] == {"kept": kinds, "generated": kinds}

    def test_no_size_and_no_number_of_references_compiles_again(self, compiled, pipeline):
        dream_o = compiled[0]
        graphs = graphs_made()
        for height, width in SIZES:
            for references in range(3):
                options = {"height": height, "width": width, "num_inference_steps": 1}
                made = latents_of(dream_o.pipeline, references, **options)
                assert difference(made, latents_of(pipeline, references, **options)) < 1e-4
        assert graphs_made() == graphs

    def test_more_steps_and_true_cfg_are_as_exact(self, compiled, pipeline):
        options = {"num_inference_steps": 8, "true_cfg_scale": 2.0, "cfg_end_step": 4}
        made = latents_of(compiled[0].pipeline, 2, **options)
        assert difference(made, latents_of(pipeline, 2, **options)) < 1e-4

    def test_the_same_request_gives_the_same_image(self, compiled):
        request = Request("a hill", (), width=96, height=64, num_steps=2, seed=3)
        results = [compiled[0].generate(request) for _ in range(2)]
        assert results[0].image.tobytes() == results[1].image.tobytes()
        assert results[0].metrics["speed"] == "compiled"

    def test_leaving_steps_out_compiles_nothing_again(self, compiled):
        dream_o = compiled[0]
        graphs = graphs_made()
        transformer = dream_o.pipeline.transformer
        enable_step_reuse(transformer, speed.COMPUTED_FIRST, speed.COMPUTED_EVERY)
        try:
            for steps, computed in ((8, 5), (9, 6), (12, 7)):
                request = Request("a hill", (), width=96, height=64, num_steps=steps, seed=3)
                with computed_steps(transformer) as counted:
                    results = [dream_o.generate(request) for _ in range(2)]
                assert len(counted) == 2 * computed
                assert results[0].image.tobytes() == results[1].image.tobytes()
        finally:
            transformer.disable_cache()
        assert graphs_made() == graphs

    def test_compiled_code_is_kept_where_it_is_asked_for(self, compiled):
        assert [path for path in Path(compiled[1]).rglob("*.so") if path.stat().st_size]
