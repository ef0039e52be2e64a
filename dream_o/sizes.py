"""Sizes in pixels and in tokens."""

from dream_o.errors import InputError

VAE_SCALE = 8
PATCH = 2
# Pixels along one side of a token: the VAE's factor times the packing's.
TOKEN_PIXELS = VAE_SCALE * PATCH


def check_size(name: str, pixels: int) -> None:
    """InputError naming the two nearest allowed values, unless `pixels` is a multiple of 16."""
    if pixels < TOKEN_PIXELS or pixels % TOKEN_PIXELS:
        below = max(pixels // TOKEN_PIXELS, 1) * TOKEN_PIXELS
        raise InputError(
            name,
            f"{pixels} is not a multiple of {TOKEN_PIXELS}; "
            f"the nearest allowed values are {below} and {below + TOKEN_PIXELS}",
        )
