"""Encodes prompts of any length in windows of the text encoder.

CLIP's text encoders read 77 tokens. A longer prompt is split into windows of 75 tokens, each with
its own start and end token. The windows are encoded separately and concatenated, as Stable
Diffusion's web interfaces do. The shorter of prompt and negative prompt is padded with empty
windows.
"""

from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from transformers import PreTrainedTokenizerBase

# The start and end tokens of a window.
MARKS = 2


@torch.inference_mode()
def encode_prompts(pipeline: Any, prompt: str, negative_prompt: str) -> dict[str, torch.Tensor]:
    """The arguments that a Stable Diffusion pipeline accepts instead of prompts.

    Args:
        pipeline: a StableDiffusionPipeline or StableDiffusionXLPipeline.
        prompt: text of any length.
        negative_prompt: text of any length. For SDXL, an empty one becomes zeros if the
            checkpoint was trained that way (`force_zeros_for_empty_prompt`).

    Returns:
        `prompt_embeds` and `negative_prompt_embeds`, `(1, windows * 77, channels)`; for SDXL
        also `pooled_prompt_embeds` and `negative_pooled_prompt_embeds`, `(1, channels)`, of the
        first window.
    """
    encode = _encode_sdxl if isinstance(pipeline, StableDiffusionXLPipeline) else _encode_sd15
    positive, negative = encode(pipeline, [prompt, negative_prompt])
    return positive | {f"negative_{name}": value for name, value in negative.items()}


def token_windows(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], at_least: int = 1
) -> torch.Tensor:
    """Token ids, `(texts, windows, 77)` int64, with as many windows as the longest text needs."""
    length = tokenizer.model_max_length
    body = length - MARKS
    tokens = [_tokens(tokenizer, text) for text in texts]
    windows = max(at_least, *(-(-len(each) // body) for each in tokens))
    ids = torch.full((len(texts), windows, length), tokenizer.pad_token_id)
    ids[..., 0] = tokenizer.bos_token_id
    for row, text_tokens in enumerate(tokens):
        for window in range(windows):
            part = text_tokens[window * body : (window + 1) * body]
            ids[row, window, 1 : 1 + len(part)] = torch.tensor(part, dtype=ids.dtype)
            ids[row, window, 1 + len(part)] = tokenizer.eos_token_id
    return ids


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # verbose=False turns off the warning about more than 77 tokens, which are allowed here.
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def _encode_sd15(pipeline: Any, texts: list[str]) -> list[dict[str, torch.Tensor]]:
    ids = token_windows(pipeline.tokenizer, texts).to(pipeline.text_encoder.device)
    return [
        {"prompt_embeds": pipeline.text_encoder(windows).last_hidden_state.flatten(0, 1)[None]}
        for windows in ids
    ]


def _encode_sdxl(pipeline: Any, texts: list[str]) -> list[dict[str, torch.Tensor]]:
    tokenizers = (pipeline.tokenizer, pipeline.tokenizer_2)
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
    # Two vocabularies may need different numbers of windows.
    count = max(token_windows(each, texts).shape[1] for each in tokenizers)
    ids = [
        token_windows(each, texts, count).to(pipeline.text_encoder.device) for each in tokenizers
    ]
    encoded = []
    for row, text in enumerate(texts):
        outputs = [
            encoder(each[row], output_hidden_states=True)
            for encoder, each in zip(encoders, ids, strict=True)
        ]
        # SDXL uses the hidden states before the last layer (arXiv:2307.01952, section 2.1).
        hidden_states = torch.cat([each.hidden_states[-2] for each in outputs], dim=-1)
        arguments = {
            "prompt_embeds": hidden_states.flatten(0, 1)[None],
            "pooled_prompt_embeds": outputs[1].text_embeds[:1],
        }
        if row and not text and pipeline.config.force_zeros_for_empty_prompt:
            arguments = {name: torch.zeros_like(value) for name, value in arguments.items()}
        encoded.append(arguments)
    return encoded
