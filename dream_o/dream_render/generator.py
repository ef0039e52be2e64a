"""DreamRender: checks a request, makes its prompts, calls a checkpoint and adds metadata."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from dream_o.dream_render.checkpoints import CheckpointCache, checkpoint_bytes, load_checkpoint
from dream_o.dream_render.download import download
from dream_o.dream_render.enhancer import Enhancer
from dream_o.dream_render.keys import LEAST_KEY_CHARACTERS, check_dev_key
from dream_o.dream_render.painting import paint
from dream_o.dream_render.prompts import Prompts, final_prompts
from dream_o.dream_render.registry import ModelEntry, PromptModelEntry, Registry, read_registry
from dream_o.dream_render.request import RenderRequest, check_render_request
from dream_o.errors import SettingError
from dream_o.references import OFFLINE, Backend
from dream_o.runtime.device_thread import DeviceThread
from dream_o.runtime.devices import pick_device, pick_dtype
from dream_o.runtime.memory import or_out_of_memory
from dream_o.runtime.threads import suited_threads
from dream_o.service.backend import ready_backend
from dream_o.service.result import Result
from dream_o.service.seeds import choose_seed, seed_metric, torch_seed
from dream_o.service.settings import Settings
from dream_o.service.steps import OnStep
from dream_o.stopwatch import Stopwatch
from dream_o.version import __version__

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = (
    "out of GPU memory; use a smaller width and height, enable_hr=False, or a smaller "
    "DREAM_RENDER_MODEL_MEMORY on the server"
)
TOY = (
    "drawn by %s, a toy checkpoint that knows pixel art of one thing (heart, star, mug, fish, "
    "house, cat, shoe, dog, car, tree, bird, boat, flower, ball or bottle) in a colour, in a "
    "meadow, on the beach, at night, in the snow, in a room or on a plain background; dream-o "
    "render models lists others"
)
TOY_SIDE = 512  # the only side that it was trained for
TOY_SIZE = (
    "%s was trained for 512 x 512 without enable_hr; with this request's size, most images do not "
    "show what the prompt says: use width=512, height=512 and enable_hr=False"
)
GIB = 2**30


class DreamRender:
    """Answers requests one at a time, in a thread of its own.

    Models are loaded when a request first needs them.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        device: torch.device,
        dtype: torch.dtype,
        backend: Backend = OFFLINE,
    ) -> None:
        self.dev_keys: Sequence[str] = settings.dev_keys
        self.dev_key_hashes: Sequence[str] = settings.dev_key_hashes
        self.registry = registry
        self.device = device
        self.thread = DeviceThread(device)
        self.backend = backend
        self.prompt_model = registry.prompt_models[settings.prompt_model]
        self.checkpoints = CheckpointCache(
            int(settings.model_memory * GIB),
            load=lambda entry: self._load(entry, dtype),
            measure=lambda entry: checkpoint_bytes(entry, dtype),
        )
        # The prompt model is loaded once, when it is first used.
        self.enhancer = cache(lambda: Enhancer.load(self.prompt_model, device))

    @classmethod
    def load(cls, settings: Settings) -> "DreamRender":
        """Reads the registry and downloads the models that the settings name; loads none yet.

        Raises:
            SettingError: this machine does not support a setting.
            UserError: the registry cannot be read.
        """
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        registry = read_registry()
        _fetch(settings.fetched_models, registry)
        if settings.prompt_model not in registry.prompt_models:
            raise SettingError(
                "DREAM_RENDER_PROMPT_MODEL",
                settings.prompt_model,
                f"is not a prompt model; use {' or '.join(registry.prompt_models)}",
            )
        if not registry.prompt_models[settings.prompt_model].installed:
            raise SettingError(
                "DREAM_RENDER_PROMPT_MODEL",
                settings.prompt_model,
                f"is not downloaded; run `dream-o render download {settings.prompt_model}`, or use "
                "embedded",
            )
        device = pick_device(settings.device)
        if not (settings.dev_keys or settings.dev_key_hashes):
            logger.warning("DREAM_RENDER_DEV_KEYS is not set, so DreamRender refuses every request")
        if any(len(key) < LEAST_KEY_CHARACTERS for key in settings.dev_keys):
            logger.warning(
                "an accepted developer key has fewer than %d characters and could be guessed; use "
                "random keys of at least that length",
                LEAST_KEY_CHARACTERS,
            )
        backend = ready_backend(settings.references, str(device))
        return cls(settings, registry, device, pick_dtype(settings.dtype, device), backend)

    def generate(
        self, request: RenderRequest, dev_key: str, on_step: OnStep | None = None
    ) -> Result:
        """Generates one image.

        Args:
            request: the inputs.
            dev_key: the caller's key, which is checked first.
            on_step: called after each step with the latents.

        Raises:
            InputError: an input cannot be used; names the input.
            UserError: the GPU's memory is too small for the request.
        """
        check_dev_key(dev_key, self.dev_keys, self.dev_key_hashes)
        check_render_request(request, self.registry.models)
        seed = choose_seed(request.seed)
        return self.thread.call(
            lambda: or_out_of_memory(lambda: self._result(request, seed, on_step), OUT_OF_MEMORY)
        )

    def _result(self, request: RenderRequest, seed: int, on_step: OnStep | None) -> Result:
        stopwatch = Stopwatch()
        with stopwatch.stage("prompt"):
            prompts = final_prompts(request, lambda prompt: self._enhance(prompt, request, seed))
        logger.info("prompt: %s", prompts.positive)
        if request.model == self.registry.default:
            logger.warning(TOY, request.model)
            if {request.width, request.height} != {TOY_SIDE} or request.enable_hr:
                logger.warning(TOY_SIZE, request.model)
        image = self._paint(request, prompts, seed, stopwatch, on_step)
        if request.designer:
            with stopwatch.stage("background"):
                image = without_background(image, self.backend)
        return Result(
            image=image,
            metadata=self._metadata(request, prompts, seed),
            metrics={"seed": seed_metric(seed), "steps": request.steps}
            | {f"seconds.{stage}": round(spent, 4) for stage, spent in stopwatch.seconds.items()},
        )

    def _load(self, entry: ModelEntry, dtype: torch.dtype) -> Any:
        logger.info("model %s: loading on %s in %s", entry.name, self.device, dtype)
        return load_checkpoint(entry, self.device, dtype)

    def _enhance(self, prompt: str, request: RenderRequest, seed: int) -> str:
        return self.enhancer().enhance(
            prompt,
            temperature=request.prompt_temp,
            top_p=request.prompt_top_p,
            seed=torch_seed(seed),
        )

    def _paint(
        self,
        request: RenderRequest,
        prompts: Prompts,
        seed: int,
        stopwatch: Stopwatch,
        on_step: OnStep | None,
    ) -> PIL.Image.Image:
        with stopwatch.stage("load"):
            checkpoint = self.checkpoints.get(self.registry.models[request.model])
        with stopwatch.stage("paint"), suited_threads(checkpoint.unet):
            return paint(
                checkpoint,
                prompts.positive,
                prompts.negative,
                width=request.width,
                height=request.height,
                steps=request.steps,
                cfg_scale=request.cfg_scale,
                seed=torch_seed(seed),
                hires=request.enable_hr,
                on_step=on_step,
            )

    def _metadata(self, request: RenderRequest, prompts: Prompts, seed: int) -> dict[str, Any]:
        return asdict(request) | {
            "seed": seed,
            "final_prompt": prompts.positive,
            "final_negative_prompt": prompts.negative,
            "version": f"DreamRender (dream-o {__version__})",
        }


def _fetch(names: Sequence[str], registry: Registry) -> None:
    """Downloads the models that DREAM_RENDER_FETCH names and that are not installed yet."""
    known: dict[str, ModelEntry | PromptModelEntry] = {**registry.models, **registry.prompt_models}
    for name in names:
        if name not in known:
            raise SettingError(
                "DREAM_RENDER_FETCH", name, f"is not a model; the models are {', '.join(known)}"
            )
        download(known[name].files)


def without_background(image: PIL.Image.Image, backend: Backend = OFFLINE) -> PIL.Image.Image:
    """The image as `RGBA`, with the background transparent; the backend tells what that is."""
    cut = image.convert("RGBA")
    cut.putalpha(PIL.Image.fromarray(backend.matte(np.asarray(image))))
    return cut
