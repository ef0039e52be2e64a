"""Encodes prompts for the transformer's training with the frozen text encoders."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from training.miniature.text import SHORT, TextEncoders
from training.miniature.tokenizers import PAD, REGISTERS, T5_LENGTH
from training.tokenizers import CLIP_LENGTH


@dataclass(frozen=True)
class Text:
    """Encoded prompts.

    Attributes:
        prompt_embeds: T5's output for the prompt, the registers and some padding,
            `(batch, text, T5_WIDTH)`.
        weights: the number of T5's tokens that each token represents, `(batch, text)`.
        pooled_prompt_embeds: CLIP's pooled output, `(batch, POOLED_WIDTH)`.
    """

    prompt_embeds: torch.Tensor
    weights: torch.Tensor
    pooled_prompt_embeds: torch.Tensor


class Encoder:
    """The frozen text encoders with their tokenizers."""

    def __init__(
        self,
        encoders: TextEncoders,
        t5_tokenizer: PreTrainedTokenizerFast,
        clip_tokenizer: object,
    ) -> None:
        self.encoders = encoders.eval().requires_grad_(False)
        self.t5_tokenizer = t5_tokenizer
        self.clip_tokenizer = clip_tokenizer

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Text:
        ids = self.t5_tokenizer(
            prompts, padding="longest", truncation=True, max_length=T5_LENGTH, return_tensors="pt"
        ).input_ids
        pad = self.t5_tokenizer.convert_tokens_to_ids(PAD)
        # T5 gets more padding than the transformer; it has learnt to ignore it.
        ids = nn.functional.pad(ids, (0, 16), value=pad)
        used = ids.shape[1] - 15
        device = self.encoders.t5.device
        states = self.encoders.t5(ids.to(device))[0][:, :used]
        padding = ids[:, :used] == pad
        pads = padding.sum(1, keepdim=True)
        each = (T5_LENGTH - used + pads) / pads
        weights = torch.where(padding, each, torch.ones(())).to(device)
        clip_ids = self.clip_tokenizer(  # type: ignore[operator]
            prompts, padding="longest", truncation=True, max_length=CLIP_LENGTH, return_tensors="pt"
        ).input_ids
        return Text(states, weights, self.encoders.clip(clip_ids.to(device)).pooler_output)

    @torch.no_grad()
    def tokens(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """T5's output for all tokens `(tokens, T5_WIDTH)`, and each one's register, -1 for none."""
        ids = self.t5_tokenizer(
            prompts, padding="max_length", max_length=SHORT, truncation=True, return_tensors="pt"
        ).input_ids
        first = self.t5_tokenizer.convert_tokens_to_ids(REGISTERS[0])
        register = torch.where((ids >= first) & (ids < first + len(REGISTERS)), ids - first, -1)
        states = self.encoders.t5(ids.to(self.encoders.t5.device))[0]
        return states.flatten(0, 1).cpu(), register.flatten()
