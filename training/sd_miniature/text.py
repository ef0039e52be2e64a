"""The text encoder's training: it classifies what captions say, before the UNet's training.

Without this, colours and things are learnt late and unreliably.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from dream_o.dream_render.windows import token_windows
from training.draw import Draw
from training.optimisers import optimisers
from training.sd_miniature.captions import ATTRIBUTES, Caption, random_caption
from training.sd_miniature.model import TEXT_CHANNELS
from training.stage import Stage

BATCH = 32
SIZES = [1 + len(values) for values in ATTRIBUTES.values()]


class Reader(nn.Module):
    """The text encoder with a head for each attribute, which only this training uses."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.head = nn.Linear(TEXT_CHANNELS, sum(SIZES))

    def forward(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """The logits of each attribute at each token, `(batch, tokens, values + 1)`."""
        return list(self.head(self.text_encoder(ids).last_hidden_state).split(SIZES, dim=-1))


def answers(captions: Sequence[Caption]) -> torch.Tensor:
    """The class of each attribute, 0 if it is not named, `(batch, attributes)` int64."""
    return torch.tensor(
        [
            [
                1 + values.index(each.said[name]) if name in each.said else 0
                for name, values in ATTRIBUTES.items()
            ]
            for each in captions
        ]
    )


def text_loss(
    reader: Reader, tokenizer: CLIPTokenizer, draw: Draw, batch: int = BATCH
) -> torch.Tensor:
    """The loss of classifying captions from each token after the end of the text.

    The text encoder is causal, so these tokens depend on the whole caption.
    """
    captions = [random_caption(draw.numpy) for _ in range(batch)]
    ids = token_windows(tokenizer, [each.text for each in captions])[:, 0]
    ended = ((ids == tokenizer.eos_token_id).cumsum(1) > 0).float()[..., None]
    weight = ended / ended.sum(1, keepdim=True)
    wanted = answers(captions)
    loss = torch.zeros(())
    for place, logits in enumerate(reader(ids)):
        chances = functional.log_softmax(logits, dim=-1)
        right = chances.gather(2, wanted[:, place, None, None].expand(-1, chances.shape[1], 1))
        loss = loss - (right * weight).sum(1).mean()
    return loss / len(SIZES)


def text_stage(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, steps: int, batch: int = BATCH
) -> tuple[Stage, Reader]:
    """The training stage of the text encoder, and the encoder with its heads."""
    reader = Reader(text_encoder)
    stage = Stage(
        "text",
        reader,
        optimisers(reader, muon_rate=0.01, adam_rate=3e-3, apart=("embed", "head")),
        lambda draw: text_loss(reader, tokenizer, draw, batch),
        steps,
    )
    return stage, reader


@torch.no_grad()
def right_shares(
    reader: Reader, tokenizer: CLIPTokenizer, captions: Sequence[Caption]
) -> dict[str, float]:
    """The share of captions that the last token encodes correctly, by attribute."""
    ids = token_windows(tokenizer, [each.text for each in captions])[:, 0]
    wanted = answers(captions)
    return {
        name: float((logits[:, -1].argmax(-1) == wanted[:, place]).float().mean())
        for place, (name, logits) in enumerate(zip(ATTRIBUTES, reader(ids), strict=True))
    }
