"""What a wheel holds beside the package: the files that `dream_o/paths.py` calls shipped."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHIPPED = (
    "LICENSE",
    "NOTICE",
    "cog-dream-render.yaml",
    "cog.yaml",
    "docs/images/example-id.webp",
    "docs/images/example-ip.webp",
    "docs/images/example-style.webp",
    "docs/images/example-text.webp",
    "docs/images/example-two.webp",
    "examples/ann.png",
    "examples/mug.png",
    "examples/sepia.png",
    "predict.py",
    "requirements.txt",
    "weights/README.md",
    "weights/manifest.toml",
    "weights/models.toml",
    "weights/miniature",
    "weights/render",
)


class ShippedFiles(BuildHookInterface):
    """Puts SHIPPED into `dream_o/data`; an editable install finds these files in its clone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        for name in SHIPPED:
            build_data["force_include"][str(Path(self.root, name))] = f"dream_o/data/{name}"
