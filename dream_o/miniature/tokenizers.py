"""The miniature's tokenizers: real files, of the two kinds that FLUX.1 has."""

import json

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from dream_o.lora import EXTRA_TOKENS
from dream_o.miniature.captions import vocabulary

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
BEGIN, STOP = "<|startoftext|>", "<|endoftext|>"

REGISTERS = tuple(f"<extra_id_{number}>" for number in range(16))
"""T5's sentinels, put after every prompt: tokens that the image's tokens can ask for their place.

FLUX.1's text has no place, so a token of the image sees where it is only by how it attends to
text; these are always there, and each is another.
"""

T5_LENGTH, CLIP_LENGTH = 512, 77


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """Words to ids; what is no word of the drawn world is one unknown token."""
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
    """Pairs of bytes to ids; each word of the drawn world is one token, any other its pieces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=STOP))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained.train_from_iterator(vocabulary(), trainer)
    merges = [tuple(pair) for pair in _merges(trained)]
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


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    held = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in held]
