"""Answers requests with a loaded bundle: prepares references, calls the pipeline, adds metadata."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import PIL.Image
import torch

from dream_o.errors import SettingError
from dream_o.library_internals import execution_device
from dream_o.pipeline import DreamOPipeline, DreamOPipelineOutput
from dream_o.references import OFFLINE, Backend
from dream_o.references.prepared import Prepared
from dream_o.runtime.device_thread import DeviceThread
from dream_o.runtime.devices import check_sharing, pick_devices, pick_dtype
from dream_o.runtime.memory import or_out_of_memory
from dream_o.runtime.offload import check_device, placement_for
from dream_o.runtime.parallel.leader import Followers
from dream_o.runtime.placing import apply_placement
from dream_o.runtime.plans import Placement
from dream_o.runtime.speed import (
    NotCompiledError,
    apply_speed,
    choose_speed,
    prepare_blocks,
    use_eager_blocks,
)
from dream_o.runtime.threads import suited_threads
from dream_o.service.backend import ready_backend
from dream_o.service.encoded_inputs import EncodedInputs
from dream_o.service.miniature import KNOWS, REAL_MODEL, Miniature, check_meant
from dream_o.service.request import (
    Request,
    check_request,
    full_prompt,
    has_negative_pass,
)
from dream_o.service.result import Result
from dream_o.service.seeds import choose_seed, seed_metric, torch_seed
from dream_o.service.settings import Settings
from dream_o.service.steps import OnStep, step_end
from dream_o.stopwatch import Stopwatch
from dream_o.version import __version__
from dream_o.weights.fetch.locate import MINIATURE, is_remote, locate
from dream_o.weights.format.bundle import Bundle

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = (
    "out of GPU memory; use a smaller width and height or ref_res, fewer references, "
    "or offloading (DREAM_O_OFFLOAD)"
)

OUT_OF_MEMORY_AT_SETUP = (
    "not enough GPU memory for this bundle; use offloading (DREAM_O_OFFLOAD), a quantized bundle "
    "or a GPU with more memory"
)

# The side of the images of the warm-up and their numbers of references, by the device's type. cuDNN
# and cuBLAS make plans for each shape, so on CUDA these are the shapes of usual requests.
WARM_UPS: Mapping[str, tuple[int, Sequence[int]]] = {"cuda": (1024, (0, 1, 2))}
SMALL_WARM_UP: tuple[int, Sequence[int]] = (768, (0, 1))


class DreamO:
    """A loaded bundle that answers requests, one at a time, all in one thread of its own."""

    def __init__(
        self,
        pipeline: DreamOPipeline,
        model_version: str,
        backend: Backend = OFFLINE,
        speed: str = "exact",
        thread: DeviceThread | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.thread = thread or DeviceThread(execution_device(pipeline))
        self.speed = speed
        self.model_version = model_version
        self.backend = backend
        self.miniature = (
            Miniature(pipeline.tokenizer_2) if Miniature.is_one(pipeline.tokenizer_2) else None
        )
        self.followers: Followers | None = None
        self.encoded = EncodedInputs(pipeline, backend)

    @classmethod
    def load(cls, settings: Settings, weights: str | os.PathLike[str] | None = None) -> "DreamO":
        """Loads the bundle that `weights` or the settings name, onto the settings' device.

        Raises:
            SettingError: this machine does not support a setting.
            BundleError: the bundle cannot be used.
        """
        devices = pick_devices(settings.device)
        device = devices[0]
        named = os.fspath(weights) if weights else settings.weights
        is_named = named == MINIATURE or (named is not None and is_remote(named))
        if named and not (is_named or Path(named).expanduser().is_dir()):
            variable = "COG_WEIGHTS" if weights else "DREAM_O_WEIGHTS"
            raise SettingError(
                variable,
                named,
                "does not exist; name a bundle's folder, hf://owner/repository or miniature",
            )
        bundle = locate(named)
        check_meant(bundle, named, device.type)
        for each in devices:
            check_device(bundle, each)
        backend = ready_backend(settings.references, str(device))
        logger.info("references are prepared %s", backend.description)
        dtype = pick_dtype(settings.dtype, device)
        placement = placement_for(settings.offload, settings.resident_blocks, device, bundle, dtype)
        check_sharing(settings.device, len(devices), bundle, settings.speed, placement.plan)
        speed = choose_speed(settings.speed, device) if len(devices) == 1 else "exact"
        thread = DeviceThread(device)
        load = partial(
            cls._load, bundle, devices, dtype, placement, speed, settings.speed, backend, thread
        )
        return thread.call(lambda: or_out_of_memory(load, OUT_OF_MEMORY_AT_SETUP))

    @classmethod
    def _load(
        cls,
        bundle: Bundle,
        devices: list[torch.device],
        dtype: torch.dtype,
        placement: Placement,
        speed: str,
        setting: str,
        backend: Backend,
        thread: DeviceThread,
    ) -> "DreamO":
        device = devices[0]
        stopwatch = Stopwatch(device)
        with stopwatch.stage("load"):
            pipeline = DreamOPipeline.from_pretrained(bundle, torch_dtype=dtype)
        with stopwatch.stage("place"):
            prepare_blocks(pipeline.transformer, speed, placement.plan, device)
            apply_placement(pipeline, placement, device)
        version = bundle.model_version
        is_miniature = Miniature.is_one(pipeline.tokenizer_2)
        model = f"{'miniature of ' if is_miniature else ''}DreamO {version}"
        logger.info(
            "loaded %s (%s) in %s in %.1f s, moved to %s in %.1f s",
            bundle.folder.name,
            model,
            dtype,
            stopwatch.seconds["load"],
            device,
            stopwatch.seconds["place"],
        )
        if is_miniature:
            logger.warning("this is the miniature, a toy model: %s; %s", KNOWS, REAL_MODEL)
        named = f"{model} (dream-o {__version__}, {bundle.precision})"
        loaded = cls(pipeline, named, backend, speed, thread)
        try:
            apply_speed(pipeline, speed, loaded.warm_up)
        except NotCompiledError as error:
            if setting != "auto":
                raise
            logger.warning("%s, as is done now", error)
            use_eager_blocks(pipeline)
            loaded.speed = "exact"
        logger.info("speed: %s", loaded.speed)
        if len(devices) > 1:
            loaded.followers = Followers(pipeline.transformer, bundle.folder, dtype, devices)
        if loaded.speed == "exact" and device.type == "cuda":
            loaded.warm_up()
        return loaded

    def warm_up(self) -> None:
        """Generates and discards images of one step, without and with references."""
        side, counts = WARM_UPS.get(execution_device(self.pipeline).type, SMALL_WARM_UP)
        grey = PIL.Image.new("RGB", (side // 2, side // 2), "grey")
        with suited_threads(self.pipeline.transformer):
            for count in counts:
                self.pipeline("", [grey] * count, height=side, width=side, num_inference_steps=1)

    def generate(self, request: Request, on_step: OnStep | None = None) -> Result:
        """Generates one image.

        Args:
            request: the inputs.
            on_step: called after each step with the packed latents `(1, tokens, 64)`.

        Raises:
            InputError: an input cannot be used; names the input.
            UserError: the GPU's memory is too small for the request.
        """
        check_request(request)
        return self.thread.call(partial(self._generate, request, on_step))

    def _generate(self, request: Request, on_step: OnStep | None) -> Result:
        seed = choose_seed(request.seed)
        prompt = full_prompt(request)
        unknown: dict[str, list[str]] = {}
        if self.miniature is not None:
            unknown = self.miniature.unknown_by_input(request, prompt)
            logger.warning(self.miniature.remark(request, unknown))
        stopwatch = Stopwatch(execution_device(self.pipeline))
        try:
            with suited_threads(self.pipeline.transformer):
                output, remarks = or_out_of_memory(
                    lambda: self._call(request, prompt, seed, stopwatch, on_step),
                    OUT_OF_MEMORY,
                    forget=self._forget,
                )
        except BaseException:
            self.pipeline.maybe_free_model_hooks()
            raise
        seconds = output.seconds
        for stage, spent in stopwatch.seconds.items():
            seconds[stage] += spent
        return Result(
            image=output.images[0],
            metadata=self._metadata(request, seed),
            metrics={
                "seed": seed_metric(seed),
                "steps": request.num_steps,
                "speed": self.speed,
                "model": self.model_version,
            }
            | {f"remarks.{name}": "; ".join(each) for name, each in remarks.items()}
            | {f"unknown_words.{name}": words for name, words in unknown.items()}
            | {f"seconds.{stage}": round(spent, 4) for stage, spent in seconds.items()},
        )

    def _call(
        self,
        request: Request,
        prompt: str,
        seed: int,
        stopwatch: Stopwatch,
        on_step: OnStep | None,
    ) -> tuple[DreamOPipelineOutput, dict[str, tuple[str, ...]]]:
        """The pipeline's output, and the remarks about the references by the inputs' names."""
        with stopwatch.stage("references"):
            references, remarks = self.encoded.references(request)
        with stopwatch.stage("prompt"):
            negative = self.encoded.prompt(request.neg_prompt) if has_negative_pass(request) else ""
            positive = self.encoded.prompt(prompt)
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
            generator=torch.Generator().manual_seed(torch_seed(seed)),
            callback_on_step_end=step_end(on_step),
        )
        return cast(DreamOPipelineOutput, output), remarks

    def _forget(self) -> None:
        self.pipeline.maybe_free_model_hooks()
        self.encoded.clear()

    def prepare(self, request: Request) -> list[Prepared | None]:
        """Each slot's reference before and after preprocessing, None for an empty slot.

        A file is prepared only once for the same task and size.

        Raises:
            InputError: an image that cannot be used.
        """
        return self.thread.call(partial(self.encoded.prepared, request))

    def _metadata(self, request: Request, seed: int) -> dict[str, Any]:
        inputs = asdict(request)
        tasks = inputs.pop("references")
        inputs |= {f"ref_task{slot}": each["task"] for slot, each in enumerate(tasks, start=1)}
        made_by: dict[str, Any] = {"seed": seed, "model": self.model_version}
        if loras := self.pipeline.bundle.loras:
            made_by["loras"] = {each.name: each.scale for each in loras}
        return inputs | made_by
