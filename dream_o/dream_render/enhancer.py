"""Prompt enhancement: a causal language model continues a prompt."""

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
# Dividing logits by a smaller temperature could overflow float32.
LEAST_TEMPERATURE = 1e-4
# The length of n-grams that may not repeat.
NO_REPEAT = 3


class Enhancer:
    """A prompt model with its tokenizer; its output depends only on the arguments of a call."""

    def __init__(self, model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, entry: PromptModelEntry, device: torch.device) -> "Enhancer":
        """Loads the entry's model in float32 onto `device`.

        Raises:
            UserError: the model is not installed, or is not a GPT-2 model in safetensors.
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
        """The unchanged prompt, followed by the model's additions.

        Args:
            prompt: the user's prompt.
            temperature: higher values give more varied additions; below LEAST_TEMPERATURE,
                decoding is greedy.
            top_p: tokens are drawn from the most likely ones whose probabilities add up to this
                (nucleus sampling); lower values are closer to greedy decoding.
            seed: the seed of the sampling.

        Returns:
            The prompt plus at most MAX_ADDED_TOKENS tokens; the prompt alone if the model has
            nothing to add.
        """
        phrases = new_phrases(prompt, self._continue(prompt, temperature, top_p, seed))
        while phrases and self._count(phrases) > MAX_ADDED_TOKENS:
            phrases.pop()
        if not phrases:
            logger.info("prompt: the prompt model has nothing to add")
            return prompt
        return join(prompt, ", ".join(phrases))

    def _count(self, phrases: list[str]) -> int:
        return self._ids(", " + ", ".join(phrases)).shape[1]

    def _ids(self, text: str) -> torch.Tensor:
        """Token ids, `(1, tokens)`, without a warning for texts longer than the model's context."""
        return self.tokenizer(text, return_tensors="pt", verbose=False).input_ids

    @torch.inference_mode()
    def _continue(self, prompt: str, temperature: float, top_p: float, seed: int) -> str:
        """The model's continuation of the prompt and a comma, without an unfinished last phrase."""
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
        # `generate` uses the global random generator: seed it, and restore its state afterwards.
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
