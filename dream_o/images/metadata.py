"""Metadata inside image files: how the image was made."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

logger = logging.getLogger(__name__)

PNG_KEY = "parameters"
# EXIF 2.32, UserComment: the first eight bytes name the character code of the rest.
COMMENT_CODES = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16"}
# A JPEG segment holds 65,533 bytes; the rest of the EXIF block takes less than 100 of them.
JPEG_COMMENT_BYTES = 65_400


def metadata_options(pillow: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The options of Pillow's `save` that put metadata into a file.

    Args:
        pillow: `PNG`, `JPEG` or `WEBP`.
        metadata: JSON values. A JPEG has room for 64 KB; longer metadata has its longest texts
            shortened, with a warning in the log.
    """
    if pillow == "PNG":
        # Unescaped text stays readable in any script. A lone surrogate has no UTF-8 encoding and is
        # escaped.
        text = json.dumps(dict(metadata), ensure_ascii=False)
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text(PNG_KEY, text.encode("utf-8", "backslashreplace").decode("utf-8"))
        return {"pnginfo": chunks}
    # JSON escapes keep every script within ASCII, which all EXIF readers support.
    comment = json.dumps(dict(metadata))
    if pillow == "JPEG" and len(comment) > JPEG_COMMENT_BYTES:
        comment = _shortened(metadata, JPEG_COMMENT_BYTES)
    exif = Image.Exif()
    code = next(iter(COMMENT_CODES))
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = code + comment.encode("ascii")
    return {"exif": exif.tobytes()}


def metadata_in(image: Image.Image) -> dict[str, Any]:
    """The metadata that `metadata_options` wrote; raises ValueError if the image has none."""
    text = image.info.get(PNG_KEY)
    if text is None:
        exif = image.getexif().get_ifd(ExifTags.IFD.Exif)
        comment: bytes = exif.get(ExifTags.Base.UserComment, b"")
        if not isinstance(comment, bytes) or comment[:8] not in COMMENT_CODES:
            raise ValueError("no comment")
        text = comment[8:].decode(COMMENT_CODES[comment[:8]])
    found = json.loads(str(text))
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _shortened(metadata: Mapping[str, Any], limit: int) -> str:
    """JSON of at most `limit` characters; texts are cut to the greatest length at which it fits."""
    logger.warning("the metadata is too long for a jpg file: long texts were shortened")
    kept = limit
    while kept:
        kept //= 2
        comment = json.dumps(
            {key: v[:kept] if isinstance(v, str) else v for key, v in metadata.items()}
        )
        if len(comment) <= limit:
            return comment
    return "{}"
