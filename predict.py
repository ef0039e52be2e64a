"""The predictors' inputs. Cog reads this file without running it, so every Input is a literal."""

import time

from cog import BasePredictor, Input, Path, Secret

from dream_o.dream_render.request import RenderRequest
from dream_o.images.writing import write_image
from dream_o.importing import without_collections
from dream_o.server.request_log import RequestLine, logged_request
from dream_o.server.worker_files import (
    limit_file_size,
    prediction,
    remove_when_read,
    start_worker,
)
from dream_o.service.logs import log_to_stderr
from dream_o.service.request import Reference, Request
from dream_o.service.result import Result
from dream_o.service.settings import Settings


class Predictor(BasePredictor):
    """dream-o: an image from a prompt and up to two reference images."""

    def setup(self, weights: str | None = None) -> None:
        """Loads the bundle; `weights` (COG_WEIGHTS) takes precedence over DREAM_O_WEIGHTS."""
        start_worker()
        log_to_stderr()
        settings = Settings.from_environ()
        self.log_prompts = settings.log_prompts
        with without_collections():
            # torch: seconds that reading the inputs need not wait
            from dream_o.service.generator import DreamO

        self.dream_o = DreamO.load(settings, weights)
        limit_file_size()

    def healthcheck(self) -> bool:
        """Whether the device still computes; the Cog server asks between predictions."""
        return self.dream_o.thread.is_healthy()

    def predict(
        self,
        prompt: str = Input(description="Prompt for image generation"),
        ref_image1: Path | None = Input(description="Reference image 1 (optional)", default=None),
        ref_task1: str = Input(
            description="Task for reference image 1 ('ip': object/character, 'id': face identity, 'style': preserve style/background)",
            default="ip",
            choices=["ip", "id", "style"],
        ),
        ref_image2: Path | None = Input(description="Reference image 2 (optional)", default=None),
        ref_task2: str = Input(
            description="Task for reference image 2 ('ip': object/character, 'id': face identity, 'style': preserve style/background)",
            default="ip",
            choices=["ip", "id", "style"],
        ),
        width: int = Input(
            description="Width of the output image (must be multiple of 16)",
            default=1024,
            ge=768,
            le=1024,
        ),
        height: int = Input(
            description="Height of the output image (must be multiple of 16)",
            default=1024,
            ge=768,
            le=1024,
        ),
        num_steps: int = Input(description="Number of inference steps", default=12, ge=8, le=30),
        guidance: float = Input(
            description="Guidance scale. Lower for less intensity/more realism (e.g., faces), higher for stronger prompt adherence.",
            default=3.5,
            ge=1.0,
            le=10.0,
        ),
        seed: int | None = Input(
            description="Random seed. Leave blank or set to -1 for random.", default=None
        ),
        ref_res: int = Input(
            description="Resolution for non-ID reference image preprocessing (target pixel area)",
            default=512,
            ge=256,
            le=1024,
        ),
        neg_prompt: str = Input(description="Negative prompt", default=""),
        neg_guidance: float = Input(
            description="Negative guidance scale", default=3.5, ge=1.0, le=10.0
        ),
        true_cfg: float = Input(
            description="True CFG scale (advanced, requires distilled CFG LoRA)",
            default=1.0,
            ge=1.0,
            le=5.0,
        ),
        cfg_start_step: int = Input(
            description="CFG start step (advanced)", default=0, ge=0, le=30
        ),
        cfg_end_step: int = Input(description="CFG end step (advanced)", default=0, ge=0, le=30),
        first_step_guidance: float = Input(
            description="First step guidance scale override (advanced, 0 uses main guidance)",
            default=0.0,
            ge=0.0,
            le=10.0,
        ),
        output_format: str = Input(
            description="Format of the output image",
            default="webp",
            choices=["webp", "jpg", "png"],
        ),
        output_quality: int = Input(
            description="Output quality for lossy formats (jpg, webp)", default=90, ge=1, le=100
        ),
    ) -> Path:
        """Generates one image; the metrics include its seed and timings."""
        request = Request(
            prompt=prompt,
            references=(Reference(ref_image1, ref_task1), Reference(ref_image2, ref_task2)),
            width=width,
            height=height,
            num_steps=num_steps,
            guidance=guidance,
            seed=seed,
            ref_res=ref_res,
            neg_prompt=neg_prompt,
            neg_guidance=neg_guidance,
            true_cfg=true_cfg,
            cfg_start_step=cfg_start_step,
            cfg_end_step=cfg_end_step,
            first_step_guidance=first_step_guidance,
        )
        return self.answer(request, output_format, output_quality)

    def answer(self, request: Request, output_format: str, output_quality: int) -> Path:
        """Answers a request, which may have more references than `predict` has inputs."""
        uploads = [each.image for each in request.references]
        with prediction(*uploads), logged_request(request, self.log_prompts, *uploads) as line:
            result = self.dream_o.generate(request)
            return deliver(self, result, output_format, output_quality, line)


class DreamRenderPredictor(BasePredictor):
    """DreamRender: an image from a prompt alone, by a Stable Diffusion checkpoint."""

    def setup(self) -> None:
        """Reads the list of models; each is loaded when a request first asks for it."""
        start_worker()
        log_to_stderr()
        settings = Settings.from_environ()
        self.log_prompts = settings.log_prompts
        with without_collections():
            from dream_o.dream_render.generator import DreamRender

        self.dream_render = DreamRender.load(settings)
        limit_file_size()

    def healthcheck(self) -> bool:
        """Whether the device still computes; the Cog server asks between predictions."""
        return self.dream_render.thread.is_healthy()

    def predict(
        self,
        dev_key: Secret = Input(description="Your developer key to authenticate the API request."),
        model: str = Input(
            description="The model to be used for generating the image. Different models are optimized for various styles and outputs."
        ),
        prompt: str = Input(description="A textual description of the image you want to generate."),
        width: int = Input(
            description="The width of the generated image in pixels.", ge=64, le=2048
        ),
        height: int = Input(
            description="The height of the generated image in pixels.", ge=64, le=2048
        ),
        seed: int = Input(
            description="A numerical seed for reproducibility. Use -1 for a random seed.",
            default=-1,
            ge=-1,
        ),
        styles: str = Input(
            description='The art style to apply to the image. Use "None" if no specific style is desired.',
            default="None",
        ),
        cfg_scale: float = Input(
            description="Adjusts the adherence to the input prompt. Higher values make the image follow the prompt more closely.",
            default=7.0,
            ge=1.0,
            le=30.0,
        ),
        steps: int = Input(
            description="The number of iterations for refining the image. More steps generally result in higher quality.",
            default=30,
            ge=1,
            le=150,
        ),
        enable_hr: bool = Input(description="Enables high-resolution mode.", default=False),
        negative_prompt: str = Input(
            description="Elements or themes to exclude from the image.", default=""
        ),
        prompt_temp: float = Input(
            description="Controls the creativity of the prompt. Higher values result in more creative outputs.",
            default=0.8,
            ge=0.0,
            le=2.0,
        ),
        prompt_top_p: float = Input(
            description="Controls the probability distribution for the prompt (nucleus sampling).",
            default=0.9,
            ge=0.0,
            le=1.0,
        ),
        designer: bool = Input(
            description="Enables the Object Designer feature: an isolated object without a background.",
            default=False,
        ),
        enhance_prompt: bool = Input(
            description="Enhances the input prompt to improve image quality. With designer, only the designer prompt enhancement is applied.",
            default=True,
        ),
        output_format: str = Input(
            description="Format of the output image",
            default="png",
            choices=["webp", "jpg", "png"],
        ),
        output_quality: int = Input(
            description="Output quality for lossy formats (jpg, webp)", default=90, ge=1, le=100
        ),
    ) -> Path:
        """Generates one image; the metrics include its seed and timings."""
        request = RenderRequest(
            model=model,
            prompt=prompt,
            width=width,
            height=height,
            seed=seed,
            styles=styles,
            cfg_scale=cfg_scale,
            steps=steps,
            enable_hr=enable_hr,
            negative_prompt=negative_prompt,
            prompt_temp=prompt_temp,
            prompt_top_p=prompt_top_p,
            designer=designer,
            enhance_prompt=enhance_prompt,
        )
        with prediction(), logged_request(request, self.log_prompts) as line:
            result = self.dream_render.generate(request, dev_key.get_secret_value() or "")
            return deliver(self, result, output_format, output_quality, line)


def deliver(
    predictor: BasePredictor,
    result: Result,
    output_format: str,
    output_quality: int,
    line: RequestLine,
) -> Path:
    """Records and logs the metrics, and writes the file that Cog returns to the caller."""
    for name, value in result.metrics.items():
        predictor.record_metric(name, value)
    output = {"output_format": output_format, "output_quality": output_quality}
    begun = time.perf_counter()
    path = write_image(result.image, output_format, output_quality, result.metadata | output)
    encoding = round(time.perf_counter() - begun, 4)
    predictor.record_metric("seconds.encoding", encoding)
    line.made(result.metrics, path, encoding)
    return Path(remove_when_read(path))
