"""From encoded prompts and references to the velocity of all images of a call.

Everything that does not depend on the latents is computed here, once: the tokens of text and
references, positions, and the modulation of every step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from dream_o.conditioning import Conditioning, EncodedPrompt, EncodedReference, Rotary
from dream_o.sampling import (
    Velocity,
    guidance_per_step,
    position_ids,
    velocity_of,
    with_true_cfg,
)
from dream_o.step_reuse import reusing_steps
from dream_o.transfer import to_device
from dream_o.transformer import DreamOTransformer2DModel


@dataclass(frozen=True)
class Guidance:
    """How strongly prompts act.

    Attributes:
        scale: the distilled guidance of FLUX.1-dev.
        first_step: `scale` of the first step, or 0 for the same as in the others.
        true_cfg_scale: the scale of true CFG.
        negative_scale: the distilled guidance of the negative pass.
        true_cfg_steps: the steps with a negative pass.
    """

    scale: float
    first_step: float
    true_cfg_scale: float
    negative_scale: float
    true_cfg_steps: range


class Velocities:
    """Makes velocity functions for one size and one list of references.

    Args:
        transformer: on its device.
        grid: rows and columns of the image in tokens.
        references: encoded references by slot.
        text_tokens: the number of tokens of every prompt.
        times: `(steps,)`, noise levels from 1 down to 0.
        guidance: of all prompts.
    """

    def __init__(
        self,
        transformer: DreamOTransformer2DModel,
        grid: tuple[int, int],
        references: Mapping[int, EncodedReference],
        text_tokens: int,
        times: torch.Tensor,
        guidance: Guidance,
    ) -> None:
        self.transformer = transformer
        self.times = times
        self.guidance = guidance
        grids = [grid, *(each.grid for each in references.values())]
        ids = position_ids(text_tokens, grids, times.device)
        self.rotary: Rotary = transformer.embed_positions(ids, text_tokens, grid[0] * grid[1])
        scales = guidance_per_step(guidance.scale, guidance.first_step, len(times))
        self.scales = to_device(scales.to(times.dtype), times.device)
        tokens = [
            transformer.embed_reference(each.latents, slot) for slot, each in references.items()
        ]
        self.reference_tokens = torch.cat(tokens, dim=1) if tokens else None

    def of_images(
        self,
        prompts: Sequence[EncodedPrompt],
        negatives: Sequence[EncodedPrompt],
        per_prompt: int,
    ) -> Velocity:
        """The velocity of `len(prompts) * per_prompt` images, in the order of their prompts.

        Each image is computed alone, because a product of several rounds differently: its velocity
        has the bits that it has in a call of its own.

        Args:
            prompts: one or more.
            negatives: as many, or none if no step has a negative pass.
            per_prompt: the number of images of each prompt.

        Returns:
            A function of latents `(images, tokens, 64)` and a step number.
        """
        velocities: list[Velocity] = []
        for at, prompt in enumerate(prompts):
            positive = self._positive(prompt)
            negative = self._negative(negatives[at]) if negatives else None
            velocities += [
                self._of_image(positive, negative, len(velocities) + copy)
                for copy in range(per_prompt)
            ]
        return _one_by_one(velocities)

    def _of_image(
        self, positive: Conditioning, negative: Conditioning | None, image: int
    ) -> Velocity:
        velocity = self._velocity(positive, f"positive {image}")
        if negative is None:
            return velocity
        return with_true_cfg(
            velocity,
            self._velocity(negative, f"negative {image}"),
            self.guidance.true_cfg_scale,
            self.guidance.true_cfg_steps,
        )

    def _velocity(self, conditioning: Conditioning, kind: str) -> Velocity:
        velocity = velocity_of(self.transformer, conditioning)
        return reusing_steps(self.transformer, velocity, kind, len(self.times))

    def _positive(self, prompt: EncodedPrompt) -> Conditioning:
        return Conditioning(
            text_tokens=self.transformer.embed_text(prompt.prompt_embeds),
            modulation=self._modulation(self.scales, prompt),
            rotary=self.rotary,
            reference_tokens=self.reference_tokens,
        )

    def _negative(self, prompt: EncodedPrompt) -> Conditioning:
        """The negative pass is plain FLUX, without references."""
        scales = torch.full_like(self.times, self.guidance.negative_scale)
        return Conditioning(
            text_tokens=self.transformer.embed_text(prompt.prompt_embeds),
            modulation=self._modulation(scales, prompt),
            rotary=self.rotary,
            token_embeddings=False,
        )

    def _modulation(self, scales: torch.Tensor, prompt: EncodedPrompt) -> torch.Tensor:
        embedded = self.transformer.embed_time(self.times, scales, prompt.pooled_prompt_embeds)
        return self.transformer.modulation(embedded)


def _one_by_one(velocities: Sequence[Velocity]) -> Velocity:
    def velocity(latents: torch.Tensor, step: int) -> torch.Tensor:
        images = latents.split(1)
        return torch.cat([of(each, step) for of, each in zip(velocities, images, strict=True)])

    return velocity
