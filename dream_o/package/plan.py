"""What a packaged folder will hold, settled before anything is written."""

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
"""The Cog configuration of each predictor, as the repository has it."""

REQUIREMENTS_BYTES = 6_000_000_000
"""What the Python packages take in the image (measured: 5.97 GB with torch's CUDA 13.0 build)."""

COG_VERSION = "0.23.0"
"""The first release with Cog's change 3160: earlier ones fail on CUDA 13 base images."""
DRIVER_VERSION = "580"
"""The first NVIDIA driver for CUDA 13 (CUDA 13.0's release notes); 7.5 is its least capability."""

LISTED = 2_000_000  # bytes from which on a group has a line of its own

SOURCE = "/src"
"""Where Cog puts the folder in the image."""


@dataclass(frozen=True)
class Group:
    """Files that go into the folder for one reason.

    Attributes:
        place: a file or a folder in the packaged folder, such as `weights/references`.
        why: a few words for the listing.
        files: where each file comes from, by its path below `place`; the path is empty where
            `place` is itself the file.
    """

    place: str
    why: str
    files: Mapping[str, Path]

    def targets(self) -> Iterator[tuple[PurePosixPath, Path]]:
        """Path in the packaged folder and source of each file."""
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
        groups: what it holds.
        environment: variables that the image sets.
        notes: what the user should know of it, one sentence each.
        fetched: bytes that each cold start downloads.
    """

    predictor: str
    groups: tuple[Group, ...]
    environment: Mapping[str, str]
    notes: tuple[str, ...] = ()
    fetched: int = field(default=0)

    def describe(self) -> str:
        """What the image will hold, its size, and what it takes to build and run it."""
        sizes = [
            (group.place, group.bytes, group.why) for group in self.groups if group.bytes >= LISTED
        ]
        small = [group for group in self.groups if group.bytes < LISTED]
        names = ", ".join(group.place for group in small)
        sizes.insert(0, ("code", sum(group.bytes for group in small), names))
        sizes.append(("Python packages", REQUIREMENTS_BYTES, "installed by cog build"))
        width = max(len(place) for place, _, _ in sizes)
        lines = ["The image will hold:"]
        lines += [f"  {place:<{width}}  {size_text(size):>8}  {why}" for place, size, why in sizes]
        total = sum(size for _, size, _ in sizes)
        lines.append(f"  {'in all':<{width}}  {size_text(total):>8}  and Cog's CUDA base image")
        if self.fetched:
            lines.append(f"Each cold start downloads {size_text(self.fetched)}.")
        lines += [f"It sets {name}={value}" for name, value in self.environment.items()]
        lines += self.notes
        lines.append(
            f"To build it: Cog {COG_VERSION} or newer (cog --version). To run it: an NVIDIA driver "
            f"{DRIVER_VERSION} or newer, because it has CUDA 13, and a GPU of compute capability "
            "7.5 or newer (Turing; not Volta)."
        )
        return "\n".join(lines)


def code_groups(predictor: str) -> list[Group]:
    """The package, its predictors, its licences and the small files that it ships."""
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
                ("LICENSE", "of the code"),
                ("NOTICE", "of what it is built on"),
            )
        ),
        Group("weights/manifest.toml", "what setup can fetch", {"": shipped / "manifest.toml"}),
        Group(
            "weights/miniature",
            "a toy to try the image with: DREAM_O_WEIGHTS=miniature",
            tree(shipped / "miniature"),
        ),
    ]
    if predictor == "dream-render":
        groups += [
            Group("weights/models.toml", "what `model` can name", {"": shipped / "models.toml"}),
            Group("weights/render", "the embedded models", tree(shipped / "render")),
        ]
    return groups


def _is_code(path: Path) -> bool:
    # `data` is where an installed package keeps the files that a clone has beside it.
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return not hidden and path.parts[0] != "data" and path.suffix not in (".pyc", ".pyo")


def _shipped_file(name: str) -> Path:
    path = SHIPPED / name
    if not path.is_file():
        where = IMPORT_ROOT.name if IN_CLONE else "this installation"
        raise UserError(f"{name} is missing from {where}; install dream-o again")
    return path


def cog_config(predictor: str) -> Path:
    """The Cog configuration that the packaged one is made from."""
    return _shipped_file(PREDICTORS[predictor])


def tree(folder: Path) -> dict[str, Path]:
    """Every file below a folder that is not hidden, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
