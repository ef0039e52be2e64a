"""Writes the trained models as a weights bundle."""

from pathlib import Path

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from dream_o.pipeline import DreamOPipeline
from dream_o.transformer import DreamOTransformer2DModel
from dream_o.weights.format.bundle import Bundle
from dream_o.weights.format.layout import BUNDLE_FILE, UNFINISHED_FILE
from dream_o.weights.format.staging import staged
from training.miniature.text import TextEncoders

# FLUX.1-dev's scheduler (black-forest-labs/FLUX.1-dev, scheduler/scheduler_config.json).
SCHEDULER = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}


def assemble(
    encoders: TextEncoders,
    t5_tokenizer: PreTrainedTokenizerFast,
    clip_tokenizer: CLIPTokenizer,
    vae: AutoencoderKL,
    transformer: DreamOTransformer2DModel,
) -> DreamOPipeline:
    """A pipeline of these models, which are not copied."""
    pipeline = DreamOPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
        vae=vae.eval(),
        text_encoder=encoders.clip.eval(),
        tokenizer=clip_tokenizer,
        text_encoder_2=encoders.t5.eval(),
        tokenizer_2=t5_tokenizer,
        transformer=transformer.eval(),
    )
    # Trained for 12 steps, like models with the turbo adapter.
    pipeline.bundle = Bundle("v1.1", turbo=True, precision="float32", dtype="float32")
    return pipeline


def write(pipeline: DreamOPipeline, folder: Path) -> None:
    """Writes the bundle beside the folder and moves it into place when it is complete.

    Raises BundleError if the folder exists and is not a bundle.
    """
    with staged(folder) as stage:
        pipeline.save_pretrained(stage)
        (stage / BUNDLE_FILE).rename(stage / UNFINISHED_FILE)
