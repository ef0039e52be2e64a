"""The miniature's text encoders, trained on their own to classify what a caption says."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from dream_o.weights.build.recipe import EXTRA_TOKENS
from training.draw import Draw
from training.miniature.captions import (
    ATTRIBUTES,
    KINDS,
    Caption,
    Said,
    describe,
    fragment,
    random_said,
)
from training.miniature.tokenizers import END, PAD, REGISTERS, T5_LENGTH
from training.optimisers import optimisers
from training.stage import Stage
from training.tokenizers import CLIP_LENGTH
from training.world.words import one_of, with_noise

T5_WIDTH, POOLED_WIDTH = 96, 128
BATCH = 48
# Most steps use short prompts; some use the length to which the pipeline pads.
SHORT, LONG_SHARE, LONG_BATCH = 104, 0.4, 8
# The shares of captions that are empty, and that name one attribute, as negative prompts do.
EMPTY_SHARE, FRAGMENT_SHARE = 0.03, 0.12


class TextEncoders(nn.Module):
    """Both encoders, with the heads that only their training uses."""

    def __init__(self, t5_words: int, clip_pieces: int, clip_end: int) -> None:
        super().__init__()
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=t5_words,
                d_model=T5_WIDTH,
                d_kv=24,
                d_ff=192,
                num_layers=2,
                num_heads=4,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                is_encoder_decoder=False,
                use_cache=False,
            )
        )
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=clip_pieces,
                hidden_size=POOLED_WIDTH,
                projection_dim=POOLED_WIDTH,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=CLIP_LENGTH,
                bos_token_id=clip_end - 1,
                eos_token_id=clip_end,
                pad_token_id=clip_end,
            )
        )
        answers = sum(1 + len(values) for values in ATTRIBUTES.values()) + 2
        self.t5_head = nn.Linear(T5_WIDTH, answers)
        self.clip_head = nn.Linear(POOLED_WIDTH, answers)


def new_text_encoders(
    t5_tokenizer: PreTrainedTokenizerFast, clip_tokenizer: CLIPTokenizer, seed: int
) -> TextEncoders:
    """Untrained encoders for these tokenizers."""
    torch.manual_seed(seed)
    encoders = TextEncoders(
        len(t5_tokenizer), len(clip_tokenizer), int(clip_tokenizer.eos_token_id)
    )
    nn.init.normal_(encoders.t5.shared.weight, std=1.0)
    with torch.no_grad():
        encoders.clip.get_input_embeddings().weight.normal_(std=0.5)
    return encoders


def answers(captions: list[tuple[Caption, bool]]) -> torch.Tensor:
    """The class of each attribute and of being a style prompt, `(batch, attributes + 1)` int64."""
    rows = []
    for caption, style in captions:
        row = [
            1 + values.index(caption.said[name]) if name in caption.said else 0
            for name, values in ATTRIBUTES.items()
        ]
        rows.append([*row, int(style)])
    return torch.tensor(rows)


def answer_logits(flat: torch.Tensor) -> list[torch.Tensor]:
    """A head's output `(..., answers)` by attribute."""
    sizes = [1 + len(values) for values in ATTRIBUTES.values()] + [2]
    return list(flat.split(sizes, dim=-1))


def random_caption(random: np.random.Generator) -> tuple[Caption, bool]:
    """A random caption in a random wording, and whether it asks for a style."""
    form = random.random()
    if form < EMPTY_SHARE:
        return Caption("", {}), False
    if form < EMPTY_SHARE + FRAGMENT_SHARE:
        name = one_of(random, tuple(ATTRIBUTES))
        said = {name: one_of(random, ATTRIBUTES[name])}
        return Caption(fragment(name, said[name], random), said), False
    kind = KINDS[random.choice(3, p=(0.4, 0.3, 0.3))]
    task = ("", "ip", "id")[random.choice(3, p=(0.5, 0.3, 0.2))]
    if task == "ip" and kind == "person":
        task = "id"
    if task == "id" and kind == "subject":
        task = "ip"
    style = bool(task == "" and random.random() < 0.2)
    said = random_said(random, kind)
    if task == "ip" and random.random() < 0.5:
        said = {name: said[name] for name in said if name not in ("colour", "pattern")}
    caption = describe(said, random, task, style)
    if random.random() < 0.35:
        caption = Caption(with_noise(caption.text, random), caption.said)
    return caption, style


def text_loss(
    encoders: TextEncoders,
    t5_tokenizer: PreTrainedTokenizerFast,
    clip_tokenizer: CLIPTokenizer,
    draw: Draw,
    batch: int = BATCH,
) -> torch.Tensor:
    """The loss of classifying the caption from each word, each register and the pooled vector."""
    is_long = draw.numpy.random() < LONG_SHARE
    captions = [
        random_caption(draw.numpy) for _ in range(min(batch, LONG_BATCH) if is_long else batch)
    ]
    texts = [caption.text for caption, _ in captions]
    device = encoders.t5.device
    wanted = answers(captions).to(device)

    ids = t5_tokenizer(
        texts,
        padding="max_length",
        max_length=T5_LENGTH if is_long else SHORT,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    ids = ids.to(device)
    states = encoders.t5(ids)[0]
    padding = ids == t5_tokenizer.convert_tokens_to_ids(PAD)
    registers = ids >= t5_tokenizer.convert_tokens_to_ids(REGISTERS[0])
    registers &= ids <= t5_tokenizer.convert_tokens_to_ids(REGISTERS[-1])
    registers |= ids == t5_tokenizer.convert_tokens_to_ids(END)
    weight = (registers.float() + 0.3 * (~padding & ~registers).float())[..., None]
    weight = weight / weight.sum(1, keepdim=True)
    loss = states.new_zeros(())
    for place, logits in enumerate(answer_logits(encoders.t5_head(states))):
        chances = functional.log_softmax(logits, dim=-1)
        right = chances.gather(2, wanted[:, place, None, None].expand(-1, chances.shape[1], 1))
        loss = loss - (right * weight).sum(1).mean()
    # If all padding has the same output, one token can represent hundreds of padding tokens.
    pads = states[padding]
    loss = loss + (pads - pads.mean(0)).square().mean()

    clip_ids = clip_tokenizer(
        texts, padding="max_length", max_length=CLIP_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    # Causal: tokens after the end token do not affect the pooled vector.
    longest = int((clip_ids != clip_tokenizer.pad_token_id).sum(1).max()) + 1
    pooled = encoders.clip(clip_ids[:, :longest].to(device)).pooler_output
    for place, logits in enumerate(answer_logits(encoders.clip_head(pooled))):
        loss = loss + functional.cross_entropy(logits, wanted[:, place])
    return loss / (2 * len(ATTRIBUTES))


def text_stage(
    encoders: TextEncoders,
    t5_tokenizer: PreTrainedTokenizerFast,
    clip_tokenizer: CLIPTokenizer,
    steps: int,
    batch: int = BATCH,
) -> Stage:
    """The training stage of the text encoders."""
    return Stage(
        "text",
        encoders,
        optimisers(
            encoders,
            muon_rate=0.01,
            adam_rate=3e-3,
            apart=("shared", "embed", "head", "relative_attention_bias"),
        ),
        lambda draw: text_loss(encoders, t5_tokenizer, clip_tokenizer, draw, batch),
        steps,
    )


@torch.no_grad()
def share_reference_names(encoders: TextEncoders, t5_tokenizer: PreTrainedTokenizerFast) -> None:
    """Gives all reference tokens the embedding of the first, in place.

    This stage's captions use only the first one. The number does not change the contents, and an
    untrained embedding would disturb T5's other tokens.
    """
    rows = t5_tokenizer.convert_tokens_to_ids(list(EXTRA_TOKENS))
    encoders.t5.shared.weight[rows] = encoders.t5.shared.weight[rows[0]].clone()


def _register_answers(
    encoders: TextEncoders, t5_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> list[torch.Tensor]:
    """The logits of each attribute from the first register, as `answer_logits` returns them."""
    ids = t5_tokenizer(
        texts, padding="max_length", max_length=T5_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids.to(encoders.t5.device)
    first = ids == t5_tokenizer.convert_tokens_to_ids(REGISTERS[0])
    return answer_logits(encoders.t5_head(encoders.t5(ids)[0][first]))


@torch.no_grad()
def read(
    encoders: TextEncoders, t5_tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> list[Said]:
    """The likeliest value of each attribute that T5 encodes of a prompt, if any."""
    known = _register_answers(encoders, t5_tokenizer, texts)
    found: list[Said] = [{} for _ in texts]
    for (name, values), logits in zip(ATTRIBUTES.items(), known, strict=False):
        for said, place in zip(found, logits.argmax(-1).tolist(), strict=True):
            if place:
                said[name] = values[place - 1]
    return found


@torch.no_grad()
def right_share(
    encoders: TextEncoders,
    t5_tokenizer: PreTrainedTokenizerFast,
    clip_tokenizer: CLIPTokenizer,
    captions: list[tuple[Caption, bool]],
) -> dict[str, tuple[float, float]]:
    """The share of captions that a register and the pooled vector encode, by attribute."""
    texts = [caption.text for caption, _ in captions]
    device = encoders.t5.device
    wanted = answers(captions).to(device)
    known = _register_answers(encoders, t5_tokenizer, texts)
    clip_ids = clip_tokenizer(
        texts, padding="max_length", max_length=CLIP_LENGTH, truncation=True, return_tensors="pt"
    ).input_ids.to(device)
    pooled = answer_logits(encoders.clip_head(encoders.clip(clip_ids).pooler_output))

    def right(logits: list[torch.Tensor], place: int) -> float:
        return float((logits[place].argmax(-1) == wanted[:, place]).float().mean())

    return {
        name: (right(known, place), right(pooled, place))
        for place, name in enumerate([*ATTRIBUTES, "style"])
    }
