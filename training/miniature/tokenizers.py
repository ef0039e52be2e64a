"""The miniature's tokenizers, of the same two kinds as FLUX.1's."""

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from dream_o.weights.build.recipe import EXTRA_TOKENS
from training.miniature.captions import vocabulary
from training.tokenizers import clip_tokenizer as word_tokenizer

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"

REGISTERS = tuple(f"<extra_id_{number}>" for number in range(48))
"""T5's sentinel tokens, which follow every prompt and show image tokens their positions.

FLUX.1's text tokens have no positions, so an image token can only learn its own from its rotation
relative to text tokens. The registers are always present, and each is different.
"""

T5_LENGTH = 512


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
    return word_tokenizer(vocabulary())
