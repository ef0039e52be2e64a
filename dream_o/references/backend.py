"""Finds subjects and faces in a reference, with downloaded networks or without."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dream_o.errors import SettingError
from dream_o.references import haar
from dream_o.references.face import Face
from dream_o.references.networks import FILES, Networks
from dream_o.references.offline import head_mask, offline_matte

logger = logging.getLogger(__name__)

DOWNLOAD = "dream-o weights download references"

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Backend:
    """Finds subjects and faces. Images are `(height, width, 3)` RGB uint8.

    Attributes:
        name: for the log and for cache keys, because backends give different results.
        description: what prepares references, for the log of a model's setup.
        matte: takes an image; returns `(height, width)` uint8, 255 on the subject.
        find_faces: takes an image; returns the faces in it, in its pixel coordinates.
        face_mask: takes an aligned `(512, 512, 3)` face; returns `(512, 512)` uint8, 255 where it
            is kept.
    """

    name: str
    description: str
    matte: Callable[[Pixels], Pixels]
    find_faces: Callable[[Pixels], list[Face]]
    face_mask: Callable[[Pixels], Pixels]


OFFLINE = Backend(
    "offline",
    "offline: GrabCut and Haar cascades, with small networks",
    offline_matte,
    haar.find_faces,
    head_mask,
)
BY_NETWORKS = "by networks: BEN2, RetinaFace, BiSeNet"


def choose_backend(choice: str, folder: Path, device: str) -> Backend:
    """The backend that DREAM_O_REFERENCES names; the log says what is missing.

    Args:
        choice: `networks`, `offline`, or `auto`: the networks if all their files are in the folder,
            otherwise OFFLINE.
        folder: the folder of the networks' files, after `download references`.
        device: a torch device's name.

    Raises:
        SettingError: the choice is `networks` and a file is missing.
    """
    missing = [file for file in FILES if not (folder / file).is_file()]
    if choice == "networks" and missing:
        raise SettingError(
            "DREAM_O_REFERENCES",
            choice,
            f"needs files that are missing ({', '.join(missing)}); run "
            f"`{DOWNLOAD}`, or use auto or offline",
        )
    if choice == "offline" or missing:
        if 0 < len(missing) < len(FILES) and choice == "auto":
            logger.warning("%s missing; run `%s` to download it", ", ".join(missing), DOWNLOAD)
        return OFFLINE
    networks = Networks(folder, device)
    return Backend("networks", BY_NETWORKS, networks.matte, networks.find_faces, networks.face_mask)
