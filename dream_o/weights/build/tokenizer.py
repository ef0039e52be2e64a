"""Adds DreamO's ten tokens to T5's tokenizer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from dream_o.errors import BundleError

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"

# How transformers 4.45, with which DreamO was published, splits text for T5: it makes the fast
# tokenizer from the sentencepiece model if the config sets `add_prefix_space`, as FLUX.1-dev's
# does. Other tokenizer.json files split at whitespace first, which loses the word mark before an
# added token.
_METASPACE = {"replacement": "▁", "prepend_scheme": "always", "split": True}
_SPACES = [
    {"type": "Strip", "strip_left": False, "strip_right": True},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
]


def extended_tokenizer(folder: Path, tokens: Sequence[str]) -> tuple[Tokenizer, int]:
    """A T5 tokenizer with tokens appended, and its length without them.

    Raises:
        BundleError: the folder has no tokenizer.json, or it is not that of a T5 tokenizer.
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
        raise BundleError(f"{name} is not a T5 tokenizer") from None
    length = tokenizer.get_vocab_size(with_added_tokens=True)
    tokenizer.add_tokens([AddedToken(token, normalized=True) for token in tokens])
    if tokenizer.get_vocab_size(with_added_tokens=True) != length + len(tokens):
        raise BundleError(f"{name} already has some of the tokens {', '.join(tokens)}")
    return tokenizer, length


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """The base model's tokenizer_config.json, with the class that uses tokenizer.json as is."""
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
