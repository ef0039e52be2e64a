"""T5's tokenizer with DreamO's ten tokens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from dream_o.errors import BundleError

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"

# How transformers 4.45, which DreamO was published with, splits text for T5: it makes the fast
# tokenizer from the sentencepiece model when the config says `add_prefix_space`, as FLUX.1-dev's
# does. tokenizer.json files made otherwise split at whitespace first, which loses the word mark
# before an added token.
_METASPACE = {"replacement": "▁", "prepend_scheme": "always", "split": True}
_SPACES = [
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
]


def extended_tokenizer(folder: Path, tokens: Sequence[str]) -> tuple[Tokenizer, int]:
    """A T5 tokenizer with tokens added after its last one, and its length before that.

    Raises BundleError when the folder holds no tokenizer.json, or not one of T5's kind.
    """
    name = f"{folder.name}/{TOKENIZER_FILE}"
    try:
        content = json.loads((folder / TOKENIZER_FILE).read_bytes())
        content["normalizer"] = {
            "type": "Sequence",
            "normalizers": [_precompiled(content["normalizer"]), *_SPACES],
        }
        content["pre_tokenizer"] = {"type": "Metaspace", **_METASPACE}
        content["decoder"] = {"type": "Metaspace", **_METASPACE}
        content["truncation"] = content["padding"] = None
        tokenizer = Tokenizer.from_str(json.dumps(content))
    except FileNotFoundError:
        raise BundleError(f"{name} is missing") from None
    except Exception:  # the library raises plain Exception
        raise BundleError(f"{name} is no T5 tokenizer") from None
    length = tokenizer.get_vocab_size(with_added_tokens=True)
    tokenizer.add_tokens([AddedToken(token, normalized=True) for token in tokens])
    if tokenizer.get_vocab_size(with_added_tokens=True) != length + len(tokens):
        raise BundleError(f"{name} already holds some of the tokens {', '.join(tokens)}")
    return tokenizer, length


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """The base's tokenizer_config.json, for the class that takes tokenizer.json as it is."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValueError):
        raise BundleError(f"{folder.name}/{CONFIG_FILE} cannot be read") from None
    kept = ("clean_up_tokenization_spaces", "eos_token", "pad_token", "unk_token")
    return {
        **{key: config[key] for key in kept if key in config},
        "model_max_length": config.get("model_max_length", 512),
        "tokenizer_class": "TokenizersBackend",
    }


def _precompiled(normalizer: dict[str, Any]) -> dict[str, Any]:
    steps = normalizer.get("normalizers", [normalizer])
    return next(step for step in steps if step["type"] == "Precompiled")
