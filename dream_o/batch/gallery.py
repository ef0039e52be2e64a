"""Writes a contact sheet of the first images, and HTML pages of all results."""

import html
import io
import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import quote

from PIL import Image

from dream_o.batch.checking import SHEET_NAME
from dream_o.batch.ledger import SUCCEEDED, Outcome
from dream_o.batch.storage import Storage
from dream_o.errors import InputError
from dream_o.images.opening import open_image
from dream_o.images.sheet import Cell, contact_sheet

SHEET = f"{SHEET_NAME}.webp"
# The sheet: images, images in a row, and the longer side of each in pixels.
ON_SHEET, IN_ROW, SIDE = 60, 10, 160
# Captions are cut off at this length, so that they do not run into each other.
CAPTION = 22
ON_PAGE = 500
QUALITY = 85

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px sans-serif; margin: 16px; background: #fff; color: #222 }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 16px }}
figure {{ margin: 0 }} img {{ width: 100%; height: auto }}
figcaption {{ overflow-wrap: anywhere }} .failed {{ color: #a00 }}
</style></head><body><h1>{title}</h1><p>{counts}</p><nav>{pages}</nav><main>
"""
IMAGE = (
    '<figure><a href="{file}"><img src="{file}" loading="lazy" alt="{name}"></a>'
    "<figcaption>{name}<br>seed {seed}, {seconds:.1f} s</figcaption></figure>\n"
)
FAILURE = '<figure class="failed"><figcaption>{name}<br>{error}</figcaption></figure>\n'
FOOT = "</main><nav>{pages}</nav></body></html>\n"


def write_gallery(storage: Storage, outcomes: Iterable[Outcome]) -> None:
    """Writes `contact-sheet.webp` and `index.html`, `index-2.html` and so on.

    Raises:
        StorageError: the output folder cannot be read or written.
    """
    seen = iter(outcomes)
    first = list(itertools.islice(seen, ON_SHEET))
    _write_sheet(storage, first)
    _write_pages(storage, itertools.chain(first, seen))


def _write_sheet(storage: Storage, outcomes: list[Outcome]) -> None:
    cells = []
    for each in outcomes:
        # Somebody may have deleted or damaged an image of an earlier run.
        with suppress(InputError):
            if each.status == SUCCEEDED and each.file:
                image = _small(storage.read(each.file) or b"", each.name)
                cells.append(Cell((image,), each.name[:CAPTION]))
    if not cells:
        storage.remove(SHEET)
        return
    rows = [cells[start : start + IN_ROW] for start in range(0, len(cells), IN_ROW)]
    file = io.BytesIO()
    contact_sheet(rows, SIDE).save(file, "WEBP", quality=QUALITY)
    storage.write(SHEET, file.getvalue())


def _small(content: bytes, name: str) -> Image.Image:
    image = open_image(io.BytesIO(content), name)
    image.thumbnail((2 * SIDE, 2 * SIDE))
    return image


def _write_pages(storage: Storage, outcomes: Iterator[Outcome]) -> None:
    page = list(itertools.islice(outcomes, ON_PAGE))
    number = 1
    while page:
        following = list(itertools.islice(outcomes, ON_PAGE))
        storage.write(_page(number), _html(page, number, bool(following)).encode())
        page, number = following, number + 1
    storage.remove(_page(number))  # of an earlier, longer run


def _page(number: int) -> str:
    return f"index-{number}.html" if number > 1 else "index.html"


def _html(outcomes: list[Outcome], number: int, has_next: bool) -> str:
    links = [(number - 1, "previous")] * (number > 1) + [(number + 1, "next")] * has_next
    pages = " ".join(f'<a href="{_page(to)}">{word}</a>' for to, word in links)
    failed = sum(each.status != SUCCEEDED for each in outcomes)
    counts = f"{len(outcomes) - failed} images, {failed} failed"
    parts = [HEAD.format(title=f"Results, page {number}", counts=counts, pages=pages)]
    for each in outcomes:
        if each.status == SUCCEEDED and each.file:
            parts.append(
                IMAGE.format(
                    file=quote(each.file),
                    name=html.escape(each.name),
                    seed=each.seed,
                    seconds=each.seconds,
                )
            )
        else:
            parts.append(
                FAILURE.format(name=html.escape(each.name), error=html.escape(each.error or ""))
            )
    return "".join([*parts, FOOT.format(pages=pages)])
