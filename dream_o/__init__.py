"""DreamO: images from a prompt and reference pictures, on FLUX.1-dev."""

__version__ = "0.1.0"
