"""A bundle's token ids: as in the original implementation, with one for each placeholder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dream_o.errors import BundleError
from dream_o.weights.build.recipe import EXTRA_TOKENS
from dream_o.weights.build.tokenizer import extended_tokenizer
from dream_o.weights.format.load import load_components
from tests.conftest import PARITY

CASES = json.loads((PARITY / "cases.json").read_text())


@pytest.fixture(scope="module")
def components(fused: Callable[[str, bool], Path]) -> dict[str, Any]:
    """The miniature's components."""
    return load_components(fused("v1.1", True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
@pytest.mark.parametrize(
    ("tokenizer", "length", "ids"), [("tokenizer", 77, "clip_ids"), ("tokenizer_2", 512, "t5_ids")]
)
def test_prompts_give_the_ids_of_the_original(
    case: dict[str, Any], tokenizer: str, length: int, ids: str, components: dict[str, Any]
) -> None:
    found = components[tokenizer](
        case["prompt"], padding="max_length", max_length=length, truncation=True
    ).input_ids
    golden = np.load(PARITY / "golden" / f"{case['name']}.npz")[ids]
    assert found == golden.tolist()


@pytest.mark.parametrize("token", EXTRA_TOKENS)
def test_a_placeholder_is_one_token_after_the_last_of_t5(
    token: str, components: dict[str, Any]
) -> None:
    tokenizer = components["tokenizer_2"]
    first = len(tokenizer) - len(EXTRA_TOKENS)
    assert tokenizer(token).input_ids == [first + EXTRA_TOKENS.index(token), 1]
    assert components["text_encoder_2"].shared.num_embeddings == len(tokenizer)


# What T5TokenizerFast of transformers 4.45.2, with the tokens added, gave for the parity base.
@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("a [ref#1] b [ref#2], [res].", [41, 3, 178, 98, 3, 179, 3, 81, 3, 187, 3, 83, 1]),
        ("[ref#1]\n[ref#2]", [178, 3, 179, 1]),
        ("x [ref#1]y", [3, 137, 3, 178, 147, 1]),
        ("[ref#1] is walking", [178, 153, 167, 8, 1]),
        ("Hello   [ref#1]  x", [3, 116, 176, 168, 168, 173, 3, 178, 3, 137, 1]),
        ("", [1]),
    ],
)
def test_text_around_a_placeholder_is_split_as_in_the_original(
    prompt: str, ids: list[int], components: dict[str, Any]
) -> None:
    assert components["tokenizer_2"](prompt).input_ids == ids


def test_a_base_tokenizer_that_splits_at_whitespace_gives_the_same_ids(
    tmp_path: Path, components: dict[str, Any]
) -> None:
    content = json.loads((PARITY / "base/tokenizer_2/tokenizer.json").read_text())
    content["normalizer"] = content["normalizer"]["normalizers"][0]
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, content["pre_tokenizer"]],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer, length = extended_tokenizer(tmp_path, EXTRA_TOKENS)
    prompt = "a [ref#1] b [ref#2], [res]."
    assert tokenizer.encode(prompt).ids == components["tokenizer_2"](prompt).input_ids
    assert length == len(components["tokenizer_2"]) - 10


def test_a_tokenizer_that_already_has_the_tokens_is_refused() -> None:
    with pytest.raises(BundleError, match="already has some"):
        extended_tokenizer(PARITY / "base/tokenizer_2", ["</s>"])
