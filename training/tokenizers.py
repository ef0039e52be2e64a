"""CLIP tokenizers in which each word of a vocabulary is one token."""

import itertools
from collections.abc import Sequence

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

BEGIN, STOP = "<|startoftext|>", "<|endoftext|>"
CLIP_LENGTH = 77


def clip_tokenizer(words: Sequence[str]) -> CLIPTokenizer:
    """Byte pairs to ids; each of these words is one token, other words are split."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = word_merges(words)
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
