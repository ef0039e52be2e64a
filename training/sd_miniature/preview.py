"""A sheet of images that a training's model draws, without selection."""

from diffusers import StableDiffusionPipeline
from PIL import Image

from dream_o.dream_render.painting import paint
from dream_o.images.sheet import Cell, contact_sheet

PROMPTS = (
    ("a red shoe", "a blue car in the snow", "a green dog at night", "an orange cat in a room"),
    (
        "a yellow star on a dark background",
        "a pink fish on the beach",
        "a striped purple mug on a beige background",
        "a white boat by the sea",
    ),
)
SIDE, CELL = 512, 256
STEPS, GUIDANCE = 30, 7.0


def preview_sheet(pipeline: StableDiffusionPipeline) -> Image.Image:
    """Draws the PROMPTS with the defaults of a request."""
    pipeline.set_progress_bar_config(disable=True)
    return contact_sheet(
        [[Cell((_draw(pipeline, prompt),), prompt) for prompt in line] for line in PROMPTS], CELL
    )


def _draw(pipeline: StableDiffusionPipeline, prompt: str) -> Image.Image:
    return paint(
        pipeline,
        prompt,
        "",
        width=SIDE,
        height=SIDE,
        steps=STEPS,
        cfg_scale=GUIDANCE,
        seed=0,
        hires=False,
    )
