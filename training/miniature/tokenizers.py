"""The miniature's tokenizers, of the same two kinds as FLUX.1's."""

import itertools
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from dream_o.weights.build.recipe import EXTRA_TOKENS
from training.miniature.captions import vocabulary

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
BEGIN, STOP = "<|startoftext|>", "<|endoftext|>"

REGISTERS = tuple(f"<extra_id_{number}>" for number in range(16))
"""T5's sentinel tokens, which follow every prompt and show image tokens their positions.

FLUX.1's text tokens have no positions, so an image token can only learn its own from its rotation
relative to text tokens. The registers are always present, and each is different.
"""

T5_LENGTH, CLIP_LENGTH = 512, 77


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Words to ids; words outside the drawn world become one unknown token."""
    words = [PAD, END, UNKNOWN, *REGISTERS, *vocabulary()]
    tokenizer = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token=UNKNOWN)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    after = [END, *REGISTERS]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(["$A", *after]),
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in after],
    )
    tokenizer.add_special_tokens([PAD, END, UNKNOWN, *REGISTERS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in EXTRA_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=T5_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def clip_tokenizer() -> CLIPTokenizer:
    """Byte pairs to ids; each word of the drawn world is one token, other words are split."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = word_merges(vocabulary())
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    pieces += [left + right for left, right in merges]
    pieces += [BEGIN, STOP]
    table = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(
        vocab=table,
        merges=merges,
        bos_token=BEGIN,
        eos_token=STOP,
        unk_token=STOP,
        pad_token=STOP,
        model_max_length=CLIP_LENGTH,
    )


def word_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Ordered merges that make each word one token; they are deterministic.

    A word is merged from the left, from pieces of the words before it, so later merges cannot
    split a word that earlier ones have formed.
    """
    merges: dict[tuple[str, str], int] = {}
    for word in words:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            pairs = list(itertools.pairwise(pieces))
            known = [pair for pair in pairs if pair in merges]
            pair = min(known, key=merges.__getitem__) if known else pairs[0]
            merges.setdefault(pair, len(merges))
            joined: list[str] = []
            for piece in pieces:
                if joined and (joined[-1], piece) == pair:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            pieces = joined
    return list(merges)
