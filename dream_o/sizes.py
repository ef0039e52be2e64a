"""Sizes in pixels and in tokens, and the number of reference slots. Imports no torch."""

from dream_o.errors import InputError

VAE_SCALE = 8
PATCH = 2
# Pixels along one side of a token: the VAE's downsampling factor times that of packing.
TOKEN_PIXELS = VAE_SCALE * PATCH

# DreamO's table of slots has ten rows, and references use 1 to 9 (`dreamo.safetensors`).
MAX_REFERENCES = 9


def check_size(name: str, pixels: int, multiple: int = TOKEN_PIXELS) -> None:
    """Raises InputError with the two nearest allowed values unless `multiple` divides `pixels`."""
    if pixels < multiple or pixels % multiple:
        below = max(pixels // multiple, 1) * multiple
        raise InputError(
            name,
            f"{pixels} is not a multiple of {multiple}; "
            f"the nearest allowed values are {below} and {below + multiple}",
        )
