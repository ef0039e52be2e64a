"""A loaded bundle that answers requests: references prepared, the pipeline called, the result."""

import gc
import logging
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from dream_o import __version__
from dream_o.device import check_sharing, pick_devices, pick_dtype
from dream_o.encoded import EncodedPrompt, EncodedReference
from dream_o.errors import SettingError, UserError
from dream_o.images import content_hash, file_hash, open_image
from dream_o.lru import ByteBoundedCache
from dream_o.offload import MOVES_TRANSFORMER, apply_plan, check_device, plan_for
from dream_o.parallel.leader import Followers
from dream_o.pipeline import DreamOPipeline
from dream_o.references import OFFLINE, Backend, choose_backend, prepare
from dream_o.references.preview import Prepared
from dream_o.request import Reference, Request, check_request, full_prompt, has_negative_pass
from dream_o.result import Result
from dream_o.seeds import choose_seed
from dream_o.settings import REFERENCE_NETWORKS, Settings
from dream_o.speed import apply_speed, choose_speed
from dream_o.stopwatch import Stopwatch
from dream_o.threads import suited_threads
from dream_o.weights.bundle import read_bundle
from dream_o.weights.locate import locate
from dream_o.weights.quantized import KINDS

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = (
    "out of GPU memory; use a smaller width and height or ref_res, fewer references, "
    "or offloading (DREAM_O_OFFLOAD)"
)

OUT_OF_MEMORY_AT_SETUP = (
    "not enough GPU memory for this bundle; use offloading (DREAM_O_OFFLOAD), a quantised bundle "
    "or a GPU with more memory"
)

WARM_UP_SIDE = 768

# Uploads that are kept decoded: a 4 megapixel photograph has 12 MB.
OPENED_BYTES = 64 * 2**20
# Prepared references that are kept: some dozens of the largest, hundreds of the usual ones.
PREPARED_BYTES = 128 * 2**20
# Their latents, on the device: a 1024 x 1024 reference has 1 MiB of them in float32.
ENCODED_BYTES = 64 * 2**20
# And prompts, likewise: FLUX.1's take 4 MiB each in bfloat16.
PROMPT_BYTES = 64 * 2**20


class DreamO:
    """A loaded bundle that answers requests, one at a time."""

    def __init__(
        self,
        pipeline: DreamOPipeline,
        model_version: str,
        backend: Backend = OFFLINE,
        speed: str = "exact",
    ) -> None:
        self.pipeline = pipeline
        self.speed = speed
        self.model_version = model_version
        self.backend = backend
        self.followers: Followers | None = None
        self._opened: ByteBoundedCache[PIL.Image.Image] = ByteBoundedCache(
            OPENED_BYTES, lambda image: len(image.mode) * image.width * image.height
        )
        self._prepared: ByteBoundedCache[PIL.Image.Image] = ByteBoundedCache(
            PREPARED_BYTES, lambda image: 3 * image.width * image.height
        )
        self._encoded: ByteBoundedCache[EncodedReference] = ByteBoundedCache(
            ENCODED_BYTES, lambda encoded: encoded.nbytes
        )
        self._prompts: ByteBoundedCache[EncodedPrompt] = ByteBoundedCache(
            PROMPT_BYTES, lambda encoded: encoded.nbytes
        )

    @classmethod
    def load(cls, settings: Settings, weights: str | os.PathLike[str] | None = None) -> "DreamO":
        """The bundle that `weights` or the settings name, on the settings' device.

        Raises:
            SettingError: a setting that this machine cannot follow.
            BundleError: the bundle cannot be used.
        """
        devices = pick_devices(settings.device)
        device = devices[0]
        named = os.fspath(weights) if weights else settings.weights
        folder = locate(named)
        if named and not folder.is_dir():
            variable = "COG_WEIGHTS" if weights else "DREAM_O_WEIGHTS"
            raise SettingError(variable, named, "a bundle's folder or hf://owner/repository")
        for each in devices:
            check_device(read_bundle(folder), each)
        backend = choose_backend(settings.references, REFERENCE_NETWORKS, str(device))
        dtype = pick_dtype(settings.dtype, device)
        plan = plan_for(settings.offload, device, folder, dtype)
        check_sharing(settings.device, len(devices), folder, settings.speed, plan)
        moved = plan in MOVES_TRANSFORMER and read_bundle(folder).precision in KINDS
        speed = choose_speed(settings.speed, device, moved) if len(devices) == 1 else "exact"
        try:
            return cls._load(folder, devices, dtype, plan, speed, backend)
        except torch.OutOfMemoryError as error:
            raise UserError(OUT_OF_MEMORY_AT_SETUP) from error

    @classmethod
    def _load(
        cls,
        folder: Path,
        devices: list[torch.device],
        dtype: torch.dtype,
        plan: str,
        speed: str,
        backend: Backend,
    ) -> "DreamO":
        device = devices[0]
        stopwatch = Stopwatch(device)
        with stopwatch.stage("load"):
            pipeline = DreamOPipeline.from_pretrained(folder, torch_dtype=dtype)
        with stopwatch.stage("place"):
            apply_plan(pipeline, plan, device)
        version = pipeline.bundle.model_version
        logger.info(
            "loaded %s (DreamO %s) in %s in %.1f s, moved to %s in %.1f s",
            folder.name, version, dtype, stopwatch.seconds["load"],
            device, stopwatch.seconds["place"],
        )  # fmt: skip
        precision = pipeline.bundle.precision
        named = f"DreamO {version} (dream-o {__version__}, {precision})"
        logger.info("speed: %s", speed)
        loaded = cls(pipeline, named, backend, speed)
        apply_speed(pipeline, speed, plan, loaded.warm_up)
        if len(devices) > 1:
            loaded.followers = Followers(pipeline.transformer, folder, dtype, devices)
        return loaded

    def warm_up(self) -> None:
        """Two images of one step that nobody sees, without and with a reference."""
        grey = PIL.Image.new("RGB", (WARM_UP_SIDE // 2,) * 2, "grey")
        with suited_threads(self.pipeline.transformer):
            for references in ((), (grey,)):
                self.pipeline(
                    "", references, height=WARM_UP_SIDE, width=WARM_UP_SIDE, num_inference_steps=1
                )

    def generate(self, request: Request) -> Result:
        """One image.

        Raises:
            InputError: what is wrong with which input.
            UserError: the GPU's memory does not hold the request.
        """
        check_request(request)
        seed = choose_seed(request.seed)
        prompt = full_prompt(request)
        stopwatch = Stopwatch(self.pipeline._execution_device)
        try:
            with suited_threads(self.pipeline.transformer):
                with stopwatch.stage("references"):
                    references = [
                        self._encode(each) if each else None for each in self.prepare(request)
                    ]
                with stopwatch.stage("prompt"):
                    negative = self._text(request.neg_prompt) if has_negative_pass(request) else ""
                    positive = self._text(prompt)
                output = self.pipeline(
                    positive,
                    references,
                    negative_prompt=negative,
                    height=request.height,
                    width=request.width,
                    num_inference_steps=request.num_steps,
                    guidance_scale=request.guidance,
                    first_step_guidance_scale=request.first_step_guidance,
                    true_cfg_scale=request.true_cfg,
                    negative_guidance_scale=request.neg_guidance,
                    cfg_start_step=request.cfg_start_step,
                    cfg_end_step=request.cfg_end_step,
                    generator=torch.Generator().manual_seed(seed),
                )
        except torch.OutOfMemoryError:
            output = None
        except BaseException:
            self.pipeline.maybe_free_model_hooks()
            raise
        if output is None:
            # Out here the traceback no longer holds the request's tensors.
            self.pipeline.maybe_free_model_hooks()
            self._encoded.clear()
            self._prompts.clear()
            gc.collect()
            torch.cuda.empty_cache()
            raise UserError(OUT_OF_MEMORY)

        seconds = output.seconds
        for stage, spent in stopwatch.seconds.items():
            seconds[stage] += spent
        return Result(
            image=output.images[0],
            metadata=self._metadata(request, seed),
            metrics={"seed": seed, "steps": request.num_steps, "speed": self.speed}
            | {f"seconds.{stage}": round(spent, 4) for stage, spent in seconds.items()},
        )

    def prepare(self, request: Request) -> list[Prepared | None]:
        """Each slot's reference before and after preprocessing, None for an empty slot.

        The same picture for the same task and size is prepared once.

        Raises:
            InputError: a picture that cannot be used.
        """
        return [
            self._prepare(slot, each, request.ref_res) if each.image is not None else None
            for slot, each in enumerate(request.references, start=1)
        ]

    def _prepare(self, slot: int, reference: Reference, resolution: int) -> Prepared:
        name = f"ref_image{slot}"
        assert reference.image is not None
        before = self._opened.get_or_make(
            file_hash(reference.image, name), partial(open_image, reference.image, name)
        )
        after = self._prepared.get_or_make(
            (content_hash(before), reference.task, resolution),
            lambda: prepare(before, reference.task, resolution, name, self.backend),
        )
        return Prepared(slot, reference.task, before, after)

    def _text(self, prompt: str) -> EncodedPrompt:
        return self._prompts.get_or_make(prompt, partial(self.pipeline.encode_prompt, prompt))

    def _encode(self, prepared: Prepared) -> EncodedReference:
        return self._encoded.get_or_make(
            content_hash(prepared.after), lambda: self.pipeline.encode_reference(prepared.after)
        )

    def _metadata(self, request: Request, seed: int) -> dict[str, Any]:
        inputs = asdict(request)
        tasks = inputs.pop("references")
        inputs |= {f"ref_task{slot}": each["task"] for slot, each in enumerate(tasks, start=1)}
        return inputs | {"seed": seed, "model": self.model_version}
