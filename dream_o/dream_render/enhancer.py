"""Prompt enhancement: a causal language model says what could follow a prompt."""

import logging

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedTokenizerBase

from dream_o.dream_render.phrases import join, new_phrases
from dream_o.dream_render.registry import PromptModelEntry
from dream_o.errors import UserError
from dream_o.runtime.threads import suited_threads

logger = logging.getLogger(__name__)

MAX_ADDED_TOKENS = 60
# Logits divided by less leave float32's range.
LEAST_TEMPERATURE = 1e-4
# No three tokens in a row are said twice.
NO_REPEAT = 3


class Enhancer:
    """A prompt model with its tokenizer; answers depend on nothing but the call's arguments."""

    def __init__(self, model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, entry: PromptModelEntry, device: torch.device) -> "Enhancer":
        """The entry's model, in float32 on `device`.

        Raises:
            UserError: it is not on this machine, or holds no such model in safetensors.
        """
        advice = (
            f"fetch it with `dream-o render download {entry.name}`, or send enhance_prompt=False"
        )
        if not entry.installed:
            raise UserError(f"the prompt model {entry.name} is not on this machine; {advice}")
        try:
            model = GPT2LMHeadModel.from_pretrained(
                entry.source.path, dtype=torch.float32, use_safetensors=True, local_files_only=True
            )
            tokenizer = AutoTokenizer.from_pretrained(
                entry.source.path, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"the prompt model {entry.name} cannot be read; {advice}") from error
        return cls(model.to(device).eval(), tokenizer)

    def enhance(self, prompt: str, *, temperature: float, top_p: float, seed: int) -> str:
        """The prompt, unchanged, with the model's additions after it.

        Args:
            prompt: the user's words.
            temperature: below LEAST_TEMPERATURE greedy; the higher the more varied.
            top_p: the share of likelihood that tokens are drawn from (nucleus sampling); the
                lower the closer to greedy.
            seed: of the draws.

        Returns:
            At most MAX_ADDED_TOKENS of the model's tokens longer than the prompt; the prompt
            alone where the model has nothing to add.
        """
        phrases = new_phrases(prompt, self._continue(prompt, temperature, top_p, seed))
        while phrases and self._count(phrases) > MAX_ADDED_TOKENS:
            phrases.pop()
        if not phrases:
            logger.info("prompt: nothing to add")
            return prompt
        return join(prompt, ", ".join(phrases))

    def _count(self, phrases: list[str]) -> int:
        return self._ids(", " + ", ".join(phrases)).shape[1]

    def _ids(self, text: str) -> torch.Tensor:
        """Token ids, `(1, tokens)`. A text longer than the model's memory is no cause to warn."""
        return self.tokenizer(text, return_tensors="pt", verbose=False).input_ids

    @torch.inference_mode()
    def _continue(self, prompt: str, temperature: float, top_p: float, seed: int) -> str:
        """What the model says after the prompt and a comma, cut before an unfinished phrase."""
        room = self.model.config.n_positions - MAX_ADDED_TOKENS
        ids = self._ids(prompt.rstrip(" ,\n") + ",")[:, -room:].to(self.model.device)
        sampling = (
            {
                "do_sample": True,
                "temperature": temperature,
                "top_p": top_p,
                "top_k": 0,
            }
            if temperature >= LEAST_TEMPERATURE
            else {"do_sample": False}
        )
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        # `generate` draws from the global generator: seed it, and put it back afterwards.
        with torch.random.fork_rng(devices=devices), suited_threads(self.model):
            torch.manual_seed(seed)
            said = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=MAX_ADDED_TOKENS,
                no_repeat_ngram_size=NO_REPEAT,
                pad_token_id=self.tokenizer.eos_token_id,
                **sampling,
            )[0, ids.shape[1] :]
        text = str(self.tokenizer.decode(said, skip_special_tokens=True))
        finished = len(said) < MAX_ADDED_TOKENS or said[-1] == self.tokenizer.eos_token_id
        return text if finished else text.rpartition(",")[0]
