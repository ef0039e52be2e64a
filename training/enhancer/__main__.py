"""Trains the embedded prompt model: `python -m training.enhancer [--output DIR]`.

A GPT-2 with less than a million parameters learns from prompts that are combined from the phrases
of `phrases.toml`. With one thread and a fixed seed, the same machine and libraries give the same
bytes.
"""

import argparse
import json
import logging
import os
import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from dream_o.service.logs import log_to_stderr
from training import ROOT

logger = logging.getLogger("training.enhancer.__main__")  # __name__ is "__main__"

OUTPUT = ROOT / "weights" / "render" / "prompt-model"
PHRASES = Path(__file__).with_name("phrases.toml")
SEED = 7
END = "<|endoftext|>"

VOCABULARY = 2048
WIDTH, LAYERS, HEADS, POSITIONS = 96, 3, 4, 256
SAMPLES = 20_000
STEPS, BATCH, LENGTH = 1500, 32, 64  # tokens
LEARNING_RATE, WARMUP = 4e-3, 40
# Phrases are almost equally likely in the corpus, so the temperature would have little effect. With
# logits multiplied by this factor, 0.2 gives only the likeliest phrases and 1.4 gives all of them.
SHARPNESS = 2.0
UNSCORED = -100  # the label that torch's cross-entropy ignores

# The fewest and most phrases of each part after a prompt, of the subject's own and of shared ones.
PARTS = {"details": (1, 3), "light": (1, 2), "composition": (1, 2), "quality": (1, 3)}
# The share of the subject's own phrases among those for light and composition.
OWN_SHARE = 0.6
# The share of prompts about made-up words, with shared phrases only.
UNKNOWN_SHARE = 0.15
# The share of prompts with made-up words around a known subject.
STRANGE_SHARE = 0.4
# Early phrases of a list are likelier, so that a low temperature prefers them.
DECAY = 0.85


@dataclass(frozen=True)
class Sample:
    """A prompt, which ends with a comma, and its continuation."""

    prompt: str
    continuation: str


def samples(phrases: Mapping[str, Any], count: int, seed: int = SEED) -> Iterator[Sample]:
    """`count` prompts with continuations, from the lists of `phrases.toml`."""
    chance = random.Random(seed)
    shared, words = phrases["shared"], phrases["words"]
    categories = _categories(phrases)
    for _ in range(count):
        known = chance.random() >= UNKNOWN_SHARE
        own = phrases[chance.choice(categories)] if known else {}
        subject = chance.choice(own["subjects"]) if known else _made_up(chance)
        said = _continuation(own, shared, chance)
        yield Sample(_prompt(subject, words, chance) + ",", " " + ", ".join(said))


def continuation(phrases: Mapping[str, Any], chance: random.Random) -> list[str]:
    """The phrases that could continue a random prompt."""
    own = phrases[chance.choice(_categories(phrases))] if chance.random() < 0.7 else {}
    return _continuation(own, phrases["shared"], chance)


def _categories(phrases: Mapping[str, Any]) -> list[str]:
    return [each for each in phrases if each not in ("shared", "words")]


def _continuation(
    own: Mapping[str, Any], shared: Mapping[str, Any], chance: random.Random
) -> list[str]:
    """Different phrases of every part, from a subject's own lists and the shared ones."""
    said: list[str] = []
    for part, (least, most) in PARTS.items():
        for _ in range(chance.randint(least, most)):
            lists = [each[part] for each in (own, shared) if part in each]
            if not lists:
                continue
            chosen = lists[0] if chance.random() < OWN_SHARE else lists[-1]
            phrase = _one_choice(_early(chosen, chance), chance)
            if phrase not in said:
                said.append(phrase)
    return said


def _early(phrases: Sequence[str], chance: random.Random) -> str:
    weights = [DECAY**index for index in range(len(phrases))]
    return chance.choices(phrases, weights)[0]


def _one_choice(phrase: str, chance: random.Random) -> str:
    return " ".join(chance.choice(word.split("|")) for word in phrase.split(" "))


def _prompt(subject: str, words: Mapping[str, Sequence[str]], chance: random.Random) -> str:
    before = chance.choice(words["before"]) if chance.random() < 0.5 else ""
    after = chance.choice(words["after"]) if chance.random() < 0.35 else ""
    strange = ["", ""]
    if chance.random() < STRANGE_SHARE:
        strange[chance.randrange(2)] = _made_up(chance)
    parts = (before, strange[0], subject, chance.choice(words["links"]) if strange[1] else "")
    return " ".join(part for part in (*parts, strange[1], after) if part)


def _made_up(chance: random.Random) -> str:
    syllables = [
        chance.choice("bcdfghklmnprstvwz") + chance.choice("aeiou")
        for _ in range(chance.randint(2, 4))
    ]
    return "".join(syllables)


def train_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE for any text in which each word of a phrase is one token."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # several threads would count in varying order
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=END,
        pad_token=END,
        model_max_length=POSITIONS,
    )


def encode(
    tokenizer: PreTrainedTokenizerFast, corpus: Sequence[Sample]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, `(samples, LENGTH)` int64; only the continuation has labels."""
    ids = torch.full((len(corpus), LENGTH), tokenizer.eos_token_id)
    labels = torch.full((len(corpus), LENGTH), UNSCORED)
    prompts = tokenizer([each.prompt for each in corpus]).input_ids
    continuations = tokenizer([each.continuation for each in corpus]).input_ids
    for row, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        tokens = torch.tensor([*prompt, *continuation, tokenizer.eos_token_id])[:LENGTH]
        ids[row, : len(tokens)] = tokens
        labels[row, len(prompt) : len(tokens)] = tokens[len(prompt) :]
    return ids, labels


def train(ids: torch.Tensor, labels: torch.Tensor, vocabulary: int, steps: int) -> GPT2LMHeadModel:
    """Trains a GPT-2 from scratch for `steps` batches, in float32 on the CPU."""
    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=POSITIONS,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            bos_token_id=0,
            eos_token_id=0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, 1.0) * max(1 - step / steps, 0.02)
    )
    for step in range(steps):
        rows = torch.randint(len(ids), (BATCH,))
        # Positions are shifted at random, so that prompts can be longer than those in the corpus.
        offset = int(torch.randint(POSITIONS - LENGTH, ()))
        position_ids = torch.arange(offset, offset + LENGTH)[None]
        loss = model(ids[rows], labels=labels[rows], position_ids=position_ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            logger.info("step %d of %d: loss %.3f", step, steps, loss.item())
    return model.eval()


def make(output: Path, steps: int = STEPS, count: int = SAMPLES) -> None:
    """Trains and writes the model, its tokenizer and its generation settings into `output`."""
    torch.set_num_threads(1)
    with PHRASES.open("rb") as file:
        phrases = tomllib.load(file)
    corpus = list(samples(phrases, count))
    tokenizer = train_tokenizer([each.prompt + each.continuation for each in corpus])
    ids, labels = encode(tokenizer, corpus)
    model = train(ids, labels, len(tokenizer), steps)
    # Pieces of words are only for reading prompts; continuations consist of whole words.
    never_said = sorted(set(range(len(tokenizer))) - set(labels.unique().tolist()))
    model.generation_config.suppress_tokens = never_said
    model.generation_config.pad_token_id = tokenizer.eos_token_id
    with torch.no_grad():  # the factor is put into the last normalisation, which scales the logits
        model.transformer.ln_f.weight *= SHARPNESS
        model.transformer.ln_f.bias *= SHARPNESS
    model.half().save_pretrained(output)
    tokenizer.save_pretrained(output)
    # save_pretrained makes the file readable by its owner only
    (output / "model.safetensors").chmod(0o644)
    said = len(tokenizer) - len(never_said)
    logger.info(
        "%d parameters; continuations use %d of %d tokens",
        model.num_parameters(),
        said,
        len(tokenizer),
    )
    # Only the libraries' versions in these files would change with a new pin.
    for name in ("config.json", "generation_config.json"):
        path = output / name
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings.pop("transformers_version", None)
        path.write_text(json.dumps(settings, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.enhancer")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder (%(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="batches (%(default)s)")
    arguments = parser.parse_args()
    log_to_stderr()
    make(arguments.output, arguments.steps)


if __name__ == "__main__":
    main()
