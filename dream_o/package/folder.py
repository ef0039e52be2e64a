"""Writes a plan as a folder for Cog, completely or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from dream_o.errors import UserError
from dream_o.locked_folders import lock_folder
from dream_o.package.plan import Plan, cog_config
from dream_o.weights.format.disk import check_space, disk_problem
from dream_o.weights.format.staging import exchanged, remove_leftovers

MARK = "# Written by dream-o package"
LINKED = 1_000_000
"""Files of at least this many bytes, which are always weights, are hard links if possible."""


def check_output(output: Path) -> None:
    """Raises UserError unless the folder is new, empty or was written by this command."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UserError(f"{output} is not a folder; choose another --output")
    if output.is_dir() and any(output.iterdir()) and not _is_ours(output):
        raise UserError(f"{output} contains other files; choose another --output")


def write_folder(plan: Plan, output: Path) -> None:
    """Writes the folder; replaces one that this command wrote before.

    Large files are hard links to the originals if both are on the same disk, and copies otherwise.

    Raises:
        UserError: the folder contains other files, the disk has too little space, or a file cannot
            be written.
    """
    check_output(output)
    output = output.resolve()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(output)
        stage = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
        lock = lock_folder(stage)
        try:
            _fill(plan, stage)
            stage.chmod(0o755)
            with exchanged(stage, output):
                pass
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            raise
        finally:
            if lock is not None:
                os.close(lock)
    except OSError as error:
        raise UserError(f"{output.name} was not written: {disk_problem(error)}") from None


def _fill(plan: Plan, stage: Path) -> None:
    copied = sum(
        source.stat().st_size
        for group in plan.groups
        for _, source in group.targets()
        if source.stat().st_dev != stage.stat().st_dev
    )
    check_space(stage, copied, f"for {stage.name}", "nothing was written", spare=0)
    for group in plan.groups:
        for target, source in group.targets():
            _place(source.resolve(), stage / target)
    config = cog_config(plan.predictor).read_text(encoding="utf-8")
    (stage / "cog.yaml").write_text(config + _environment(plan), encoding="utf-8")
    (stage / ".dockerignore").write_text(dockerignore(plan), encoding="utf-8")


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_size >= LINKED:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another disk, or one without hard links
    shutil.copyfile(source, target)


def _environment(plan: Plan) -> str:
    lines = [f'  - "{name}={value}"' for name, value in plan.environment.items()]
    return "\n".join(["environment:", *lines]) + "\n" if lines else ""


def dockerignore(plan: Plan) -> str:
    """The rules that include only the plan's files, and no files that are added to the folder."""
    places = [group.place for group in plan.groups]
    return "\n".join(
        [
            f"{MARK}: only the files that it wrote go into the image.",
            "*",
            "# Cog's own files, which it needs for building.",
            "!.cog",
            ".cog/serve",
            "!cog.yaml",
            *_let_in(sorted(places)),
            "**/__pycache__",
            "**/*.py[cod]",
            "",
        ]
    )


def _let_in(places: Iterable[str]) -> list[str]:
    """Rules that include places, and exclude the other contents of the folders above them."""
    lines: list[str] = []
    for place in places:
        parts = place.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if f"!{folder}" not in lines:
                lines += [f"!{folder}", f"{folder}/*"]
        lines.append(f"!{place}")
    return lines


def _is_ours(folder: Path) -> bool:
    rules = folder / ".dockerignore"
    return rules.is_file() and rules.read_text(encoding="utf-8").startswith(MARK)
