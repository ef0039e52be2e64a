"""The page's own HTML: everything that a user wrote is escaped here."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

from dream_o.page.outputs import Entry, place_of
from dream_o.page.runs import Progress
from dream_o.references.prepared import Prepared

PREVIEW_QUALITY = 80
# Images of references beside the form, in pixels of the longer side.
PREPARED_SIDE = 320

# Shown with a result, in this order; the other inputs follow.
FIRST = ("prompt", "seed", "width", "height", "num_steps", "steps", "guidance")

EMPTY = '<p class="quiet">The image appears here.</p>'


def data_url(image: Image.Image) -> str:
    """The image as a webp inside the page, so that no file is written for it."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=PREVIEW_QUALITY, method=0)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def note(text: str) -> str:
    """A remark that is not an error."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def problem(text: str) -> str:
    """A sentence about what went wrong; screen readers say it at once."""
    return f'<p class="problem" role="alert">{escape(text)}</p>'


def waiting(text: str) -> str:
    """A sentence that is shown until there is something else to show."""
    return f'<p class="quiet" role="status">{escape(text)}</p>'


def progress(now: Progress, number: int, count: int, made: str = "") -> str:
    """A request's progress in numbers, and the image as far as it can be seen.

    Args:
        now: the progress of the image that is made now.
        number: which of the images that is, from 1.
        count: how many images are made.
        made: HTML of the images that are done.
    """
    words = [f"step {now.step} of {now.steps}"]
    if count > 1:
        words.insert(0, f"image {number} of {count}")
    if now.step == now.steps:
        words.append("decoding")
    elif now.seconds_left is not None:
        words.append(f"about {now.seconds_left:.0f} s left")
    said = ", ".join(words)
    image = (
        f'<img class="preview" src="{data_url(now.preview)}" alt="preview of the image">'
        if now.preview
        else '<div class="preview blank"></div>'
    )
    return (
        f'<div class="watch">{made}{image}'
        f'<label>{said}<progress max="{now.steps}" value="{now.step}"></progress></label></div>'
    )


def address(key: str, name: str) -> str:
    """The address of a result, which does not contain the browser's key."""
    return f"outputs/{place_of(key)}/{name}"


def result(key: str, entry: Entry) -> str:
    """One result with its settings and its download."""
    link = escape(address(key, entry.name))
    metadata = entry.metadata
    names = [*FIRST, *(name for name in metadata if name not in FIRST)]
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(_shown(metadata[name]))}</dd>"
        for name in names
        if metadata.get(name) not in (None, "")
    )
    return (
        f'<figure class="result"><a href="{link}" target="_blank" rel="noopener">'
        f'<img src="{link}" alt="{escape(_alt(metadata))}"></a>'
        f'<figcaption><a class="download" href="{link}" download="{escape(entry.name)}">'
        f"Download</a> <span>seed {escape(str(metadata.get('seed')))}</span>"
        f"<details><summary>Settings</summary><dl>{rows}</dl></details></figcaption></figure>"
    )


def thumbnails(key: str, entries: Sequence[Entry], selected: str = "") -> str:
    """Results as buttons; a click selects one."""
    return "".join(
        f'<button type="button" class="thumb" data-pick="{escape(each.name)}" '
        f'aria-pressed="{str(each.name == selected).lower()}">'
        f'<img loading="lazy" src="{escape(address(key, each.name))}" '
        f'alt="{escape(_alt(each.metadata))}"></button>'
        for each in entries
    )


def side_by_side(key: str, entries: Sequence[Entry]) -> str:
    """Results that belong together; a click opens one."""
    return f'<div class="together">{thumbnails(key, entries)}</div>'


def gallery(key: str, entries: Sequence[Entry], selected: str) -> str:
    """The grid of results, newest first."""
    if not entries:
        return '<p class="quiet">Your images are kept here.</p>'
    return f'<div class="thumbs">{thumbnails(key, entries, selected)}</div>'


def prepared(reference: Prepared) -> str:
    """What the model sees of a reference."""
    small = reference.after.copy()
    small.thumbnail((PREPARED_SIDE, PREPARED_SIDE))
    size = f"{reference.after.width} x {reference.after.height}"
    return (
        f'<figure class="prepared"><img src="{data_url(small)}" '
        f'alt="reference {reference.slot} as the model sees it">'
        f"<figcaption>as the model sees it: {size}</figcaption></figure>"
    )


def underlined(prompt: str, unknown: Sequence[str]) -> str:
    """The prompt with the words underlined that the model does not know; empty if it knows all."""
    if not unknown:
        return ""
    longest_first = sorted(unknown, key=len, reverse=True)
    pattern = rf"(?<!\w)({'|'.join(map(re.escape, longest_first))})(?!\w)"
    parts = re.split(pattern, prompt)
    # The odd parts are what the pattern found.
    words = "".join(
        f"<u>{escape(part)}</u>" if index % 2 else escape(part) for index, part in enumerate(parts)
    )
    return f'<p class="unknown" role="status">The miniature ignores what is underlined: {words}</p>'


def _alt(metadata: Mapping[str, Any]) -> str:
    return str(metadata.get("prompt") or "an image without a prompt")[:300]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else str(value)
