"""`script/bench cutouts`: how well, and how fast, subjects are cut out of scenes offline."""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.composites import (
    DRAWN,
    Composite,
    Pixels,
    Subject,
    compose,
    covering,
    is_on_white,
    overlap,
    own_scenery,
    own_subjects,
    read,
    read_subjects,
)
from benchmarks.hardware import run_today
from benchmarks.options import whole
from benchmarks.report import Row, write
from dream_o.errors import UserError
from dream_o.images.sheet import Cell, contact_sheet
from dream_o.images.writing import write_image
from dream_o.references.background import cut_out, grabcut_matte
from dream_o.references.offline import offline_matte

TEXT = """# Cut-outs: overlap with the true mask

Subjects with known masks are placed on every kind of background (*ground*); the composites have at
most 768 pixels a side. *overlap* is the intersection over union of the offline backend's matte and
the true mask, averaged over the composites; *least* is the smallest. *GrabCut alone* is the mean
overlap if only the colours of the background are used, without the embedded networks. *seconds* is
the median time for one image; *longest* is the maximum, which once includes loading torch. None of
these subjects and backgrounds was used to train the networks."""

# Images on the sheet: the longer side, and the composites in a row.
SHEET_SIDE, SHEET_COLUMNS = 160, 5


class Found(NamedTuple):
    """A composite, its matte, how well it fits, and the seconds that it took."""

    composite: Composite
    matte: Pixels
    overlap: float
    by_colour: float
    seconds: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--count`, `--subjects` and `--grounds`."""
    parser.add_argument(
        "--count", type=whole, default=16, help="how many drawn subjects (default: %(default)s)"
    )
    parser.add_argument(
        "--subjects",
        type=Path,
        metavar="FOLDER",
        help="images on white to use as subjects (default: the project's drawings)",
    )
    parser.add_argument(
        "--grounds",
        type=Path,
        metavar="FOLDER",
        help="images to use as further grounds; those on white are left out",
    )


def run(
    output: Path, count: int = 16, subjects: Path | None = None, grounds: Path | None = None
) -> None:
    """Measures every composite and writes the report; the sheet only shows the drawn ones."""
    shown = list(own_subjects(count)) if subjects is None else list(read_subjects(subjects))
    if not shown:
        raise UserError("--subjects: the folder holds no image on white; name one that does")
    found = [_measured(each) for each in _composites(shown, grounds)]
    kinds = list(dict.fromkeys(each.composite.ground for each in found))
    rows = [_row(kind, [each for each in found if each.composite.ground == kind]) for kind in kinds]
    hard = [each for each in found if each.composite.ground != "plain"]
    given = f"--count {count}" if subjects is None else f"--subjects {subjects.name}"
    if grounds is not None:
        given += f" --grounds {grounds.name}"
    facts = {
        "mean overlap without plain grounds": round(_mean(each.overlap for each in hard), 3),
        "by GrabCut alone": round(_mean(each.by_colour for each in hard), 3),
        "composites": len(found),
    } | run_today(f"cutouts {given}")
    write(output, "cutouts", TEXT, rows, "overlap", facts)
    if subjects is None and grounds is None:
        _write_sheet(output, found, kinds)


def _composites(subjects: Sequence[Subject], folder: Path | None) -> Iterator[Composite]:
    images = [] if folder is None else [read(path) for path in sorted(folder.iterdir())]
    photographs = [image for image in images if not is_on_white(image)]
    for number, subject in enumerate(subjects):
        random = np.random.default_rng(number)
        height, width = subject.mask.shape
        for name, draw in (DRAWN | own_scenery()).items():
            yield compose(subject, name, draw(random, height, width))
        for turn in range(min(2, len(photographs))):
            chosen = photographs[(2 * number + turn) % len(photographs)]
            yield compose(subject, "photograph", covering(chosen, height, width, random))


def _measured(composite: Composite) -> Found:
    begun = time.perf_counter()
    matte = offline_matte(composite.image)
    seconds = time.perf_counter() - begun
    by_colour = overlap(grabcut_matte(composite.image), composite.mask)
    return Found(composite, matte, overlap(matte, composite.mask), by_colour, seconds)


def _row(ground: str, found: Sequence[Found]) -> Row:
    return {
        "ground": ground,
        "composites": len(found),
        "GrabCut alone": round(_mean(each.by_colour for each in found), 3),
        "overlap": round(_mean(each.overlap for each in found), 3),
        "least": round(min(each.overlap for each in found), 3),
        "seconds": round(statistics.median(each.seconds for each in found), 2),
        "longest": round(max(each.seconds for each in found), 2),
    }


def _mean(values: Iterator[float]) -> float:
    return statistics.fmean(values)


def _write_sheet(folder: Path, found: Sequence[Found], kinds: Sequence[str]) -> None:
    """Draws `cutouts.webp`: subjects before each ground, as sent and as cut out."""
    rows = []
    for kind in kinds:
        some = [each for each in found if each.composite.ground == kind][:SHEET_COLUMNS]
        rows.append([_cell(each) for each in some])
    sheet = contact_sheet(rows, SHEET_SIDE)
    write_image(sheet, "webp", 80, {}, folder).replace(folder / "cutouts.webp")
    (folder / "cutouts.webp").chmod(0o644)
    page = folder / "cutouts.md"
    page.write_text(page.read_text() + "\n![Composites and their cut-outs](cutouts.webp)\n")


def _cell(found: Found) -> Cell:
    image = found.composite.image
    pair = Image.fromarray(image), Image.fromarray(cut_out(image, found.matte))
    return Cell(pair, f"{found.composite.ground}: {found.overlap:.2f}")
