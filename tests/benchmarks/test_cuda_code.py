"""The check of generated CUDA code, on code as the compiler writes it."""

import pytest

from benchmarks import cuda_code
from benchmarks.cuda_code import LIMITS, Row, counts

CODE = """
triton_poi_fused_0 = async_compile.triton('triton_poi_fused_0', '''''')
def call(self, args):
    triton_poi_fused_0.run(arg0, buf0, 9437184, stream=stream0)
    extern_kernels.addmm(arg1, buf0, arg2, alpha=1, beta=1, out=buf1)
    extern_kernels.addmm(arg3, buf0, arg4, alpha=1, beta=1, out=buf2)
    buf3 = torch.ops.aten._scaled_dot_product_flash_attention.default(buf1, buf2, buf2)
    buf4 = torch.ops.aten._weight_int8pack_mm.default(buf3, arg5, arg6)
    triton_red_fused_1.run(buf4, buf5, stream=stream0)
"""


def row(**changes: object) -> Row:
    kernels, products = LIMITS["int8"]["single_block"]
    usual = {"graphs": 1, "kernels": kernels, "operators": {"addmm": products}}
    return Row("9.0", "int8", "single_block", **{**usual, **changes})


def test_kernels_and_operators_are_counted():
    kernels, operators = counts(CODE)
    assert kernels == 2
    assert operators == {
        "addmm": 2,
        "_scaled_dot_product_flash_attention": 1,
        "_weight_int8pack_mm": 1,
    }


def test_code_within_the_limits_has_no_problem():
    assert list(row().problems()) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"graphs": 3}, "3 graphs; another number of tokens compiles again"),
        ({"kernels": 99}, "99 kernels; at most "),
        ({"operators": {"addmm": 2}}, "2 products instead of "),
        ({"operators": {"_weight_int8pack_mm": 3}}, "3 products by _weight_int8pack_mm"),
    ],
)
def test_each_problem_is_a_sentence(changes, problem):
    (told,) = row(**changes).problems()
    assert told.startswith("compute capability 9.0, int8, single_block: ")
    assert problem in told


def test_without_torchs_cuda_build_the_command_says_what_to_run(monkeypatch, capsys):
    monkeypatch.setattr("torch.version.cuda", None)
    assert cuda_code.main([]) == 1
    assert capsys.readouterr().err.startswith("error: this torch is not built for CUDA; run ")
