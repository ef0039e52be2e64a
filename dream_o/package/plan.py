"""The plan of a packaged folder, made before anything is written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from dream_o.errors import UserError
from dream_o.paths import IMPORT_ROOT, IN_CLONE, SHIPPED
from dream_o.weights.format.disk import size_text

PREDICTORS: Mapping[str, str] = {
    "dream-o": "cog.yaml",
    "dream-render": "cog-dream-render.yaml",
}
"""The file in the repository with the Cog configuration of each predictor."""

REQUIREMENTS_BYTES = 6_000_000_000
"""The size of the Python packages in the image (measured: 5.97 GB with torch for CUDA 13.0)."""

COG_VERSION = "0.23.0"
"""The first release with Cog's change 3160: earlier ones fail on CUDA 13 base images."""
DRIVER_VERSION = "580"
"""The first NVIDIA driver for CUDA 13 (CUDA 13.0's release notes), which needs capability 7.5."""

LISTED = 2_000_000  # groups of at least this many bytes get their own line

SOURCE = "/src"
"""The path of the folder in the image, set by Cog."""


@dataclass(frozen=True)
class Group:
    """Files that go into the folder for one reason.

    Attributes:
        place: a file or a folder in the packaged folder, such as `weights/references`.
        why: a few words for the listing.
        files: the source of each file, by its path below `place`; the path is empty if `place`
            is the file itself.
    """

    place: str
    why: str
    files: Mapping[str, Path]

    def targets(self) -> Iterator[tuple[PurePosixPath, Path]]:
        """Yields the path in the packaged folder and the source of each file."""
        for name, source in self.files.items():
            yield PurePosixPath(self.place, name), source

    @property
    def bytes(self) -> int:
        """The size of all the files."""
        return sum(source.stat().st_size for source in self.files.values())


@dataclass(frozen=True)
class Plan:
    """A folder to be written.

    Attributes:
        predictor: a name in PREDICTORS.
        groups: the folder's contents.
        environment: the environment variables of the image.
        notes: sentences for the user.
        fetched: the bytes that each cold start downloads.
    """

    predictor: str
    groups: tuple[Group, ...]
    environment: Mapping[str, str]
    notes: tuple[str, ...] = ()
    fetched: int = field(default=0)

    def describe(self) -> str:
        """Describes the image's contents and size, and what building and running it needs."""
        sizes = [
            (group.place, group.bytes, group.why) for group in self.groups if group.bytes >= LISTED
        ]
        small = [group for group in self.groups if group.bytes < LISTED]
        names = ", ".join(group.place for group in small)
        sizes.insert(0, ("code", sum(group.bytes for group in small), names))
        sizes.append(("Python packages", REQUIREMENTS_BYTES, "installed by cog build"))
        width = max(len(place) for place, _, _ in sizes)
        lines = ["The image will contain:"]
        lines += [f"  {place:<{width}}  {size_text(size):>8}  {why}" for place, size, why in sizes]
        total = sum(size for _, size, _ in sizes)
        lines.append(f"  {'in all':<{width}}  {size_text(total):>8}  plus Cog's CUDA base image")
        if self.fetched:
            lines.append(f"Each cold start downloads {size_text(self.fetched)}.")
        lines += [f"It sets {name}={value}" for name, value in self.environment.items()]
        lines += self.notes
        lines.append(
            f"To build it: Cog {COG_VERSION} or newer (cog --version). To run it: an NVIDIA driver "
            f"{DRIVER_VERSION} or newer, because it uses CUDA 13, and a GPU of compute capability "
            "7.5 or newer (Turing; not Volta)."
        )
        return "\n".join(lines)


def code_groups(predictor: str) -> list[Group]:
    """Groups for the package, the predictor, the licences and the small files that come with it."""
    package = Path(__file__).resolve().parents[1]
    code = {
        path.relative_to(package).as_posix(): path
        for path in sorted(package.rglob("*"))
        if path.is_file() and _is_code(path.relative_to(package))
    }
    shipped = SHIPPED / "weights"
    groups = [
        Group("dream_o", "the code", code),
        *(
            Group(name, why, {"": _shipped_file(name)})
            for name, why in (
                ("predict.py", "the inputs"),
                ("requirements.txt", "the Python packages' versions"),
                ("LICENSE", "the licence of the code"),
                ("NOTICE", "licences of what it is built on"),
            )
        ),
        Group("weights/manifest.toml", "what setup can download", {"": shipped / "manifest.toml"}),
        Group(
            "weights/miniature",
            "a toy model to try the image: DREAM_O_WEIGHTS=miniature",
            tree(shipped / "miniature"),
        ),
    ]
    if predictor == "dream-render":
        groups += [
            Group("weights/models.toml", "the values of `model`", {"": shipped / "models.toml"}),
            Group("weights/render", "the embedded models", tree(shipped / "render")),
        ]
    return groups


def _is_code(path: Path) -> bool:
    # An installed package keeps in `data` the files that are beside it in a clone.
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return not hidden and path.parts[0] != "data" and path.suffix not in (".pyc", ".pyo")


def _shipped_file(name: str) -> Path:
    path = SHIPPED / name
    if not path.is_file():
        where = IMPORT_ROOT.name if IN_CLONE else "this installation"
        raise UserError(f"{name} is missing from {where}; install dream-o again")
    return path


def cog_config(predictor: str) -> Path:
    """The Cog configuration that the packaged one is based on."""
    return _shipped_file(PREDICTORS[predictor])


def tree(folder: Path) -> dict[str, Path]:
    """All files below a folder that are not hidden, by their paths in it."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
