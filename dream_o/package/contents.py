"""Plans the contents of a packaged folder besides the code: weights, networks and checkpoints."""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from dream_o.dream_render.keys import check_key_hash
from dream_o.dream_render.names import unknown_name
from dream_o.dream_render.registry import ModelEntry, PromptModelEntry, Source, read_registry
from dream_o.dream_render.request import MODELS_LISTING
from dream_o.errors import BundleError, UserError
from dream_o.package.plan import SOURCE, Group, Plan, code_groups, tree
from dream_o.paths import MANIFEST, REFERENCE_NETWORKS, WEIGHTS
from dream_o.references.networks import FILES
from dream_o.weights.fetch.address import DEFAULT_REVISION, HubAddress, parse_repository
from dream_o.weights.fetch.hub import find
from dream_o.weights.fetch.manifest import Remote, choose, read_manifest
from dream_o.weights.fetch.remote_bundle import fetch_record
from dream_o.weights.fetch.transfer import ask_all
from dream_o.weights.format.bundle import Bundle, check_file, read_bundle
from dream_o.weights.format.digests import sha256
from dream_o.weights.format.layout import BUNDLE_FILE, DOCUMENTS

NETWORKS_FOLDER = "references"
NO_NETWORKS = (
    "References are prepared without downloaded networks (--no-networks): by GrabCut, Haar "
    "cascades and the small networks that the code includes."
)
EMBEDDED = "weights/render/"
DOWNLOAD_NETWORKS = "dream-o weights download references"


def dream_o_baked(folder: Path, networks: bool) -> Plan:
    """A plan with the bundle in the image.

    Raises:
        BundleError: the folder is not a bundle, or one of its files is damaged.
        UserError: the reference networks are requested but not downloaded.
    """
    bundle = read_bundle(folder)
    check_bundle(bundle)
    name = folder.resolve().name
    if not re.fullmatch(r"[\w.-]+", name, re.ASCII) or name in ("miniature", NETWORKS_FOLDER):
        name = "bundle"
    group = Group(f"weights/{name}", bundle_text(bundle), bundle_files(bundle))
    groups, environment, notes = baked_networks() if networks else without_networks()
    return Plan(
        "dream-o",
        (*code_groups("dream-o"), group, *groups),
        {"DREAM_O_WEIGHTS": f"{SOURCE}/weights/{name}", **environment},
        tuple(notes),
    )


def dream_o_fetched(address: str, folder: Path | None, networks: bool) -> Plan:
    """A plan for an image that downloads its bundle and the reference networks at setup.

    Args:
        address: `hf://owner/repository[@revision]`; the image stores its present commit.
        folder: the local bundle, which must equal the one in the repository; None skips this check.
        networks: whether to download the reference networks too: from `references/` of the same
            repository if it has all of them, otherwise from their own repositories.

    Raises:
        BundleError: as for `dream_o.weights.fetch.remote_bundle`, or the bundle in the repository
            is not the one in `folder`.
    """
    asked = parse_repository(address)
    if folder is not None:
        read_bundle(folder)
    record, bundle, commit = fetch_record(asked)
    if folder is not None and (folder / BUNDLE_FILE).read_bytes() != record:
        raise BundleError(
            f"the bundle in {asked.repository} is not the one in {folder.name}; upload it with "
            f"hf upload {asked.repository} {folder.name} . and run this again"
        )
    pinned = HubAddress(asked.repository, commit)
    environment = {"DREAM_O_WEIGHTS": str(pinned)}
    fetched = sum(held.bytes for held in bundle.files.values())
    notes = [
        f"Setup downloads {bundle_text(bundle)} from {asked.repository} at commit {commit[:12]} "
        "and checks every digest.",
        "A private repository needs HF_TOKEN in the container, which Replicate cannot give it.",
    ]
    if networks:
        where, size = _remote_networks(pinned)
        environment["DREAM_O_REFERENCES"] = where
        fetched += size
        notes.append("Setup also downloads the reference networks and checks their digests.")
    else:
        _, offline, said = without_networks()
        environment |= offline
        notes += said
    return Plan("dream-o", tuple(code_groups("dream-o")), environment, tuple(notes), fetched)


def dream_render(
    names: Sequence[str], hashes: Sequence[str], networks: bool, fetched: bool
) -> Plan:
    """A plan for DreamRender's image.

    Args:
        names: names of checkpoints and prompt models in the registry.
        hashes: salted hashes of the accepted developer keys.
        networks: whether to include the reference networks, which cut out the designer's object.
        fetched: whether setup downloads the checkpoints; otherwise the image contains them.

    Raises:
        UserError: a name is unknown, a checkpoint is not downloaded, or a hash is not valid.
    """
    entries = [_named(name) for name in names]
    environment, groups, notes = {}, list(code_groups("dream-render")), []
    for hashed in hashes:
        check_key_hash(hashed)
    if hashes:
        environment["DREAM_RENDER_DEV_KEY_HASHES"] = ",".join(hashes)
    else:
        notes.append(
            "No key is accepted until the container gets DREAM_RENDER_DEV_KEYS or "
            "DREAM_RENDER_DEV_KEYS_FILE. To put the hash of a key into the image, run "
            "dream-o render hash-key and pass its output as --dev-key-hash."
        )
    if fetched and entries:
        environment["DREAM_RENDER_FETCH"] = ",".join(each.name for each in entries)
        notes.append("Setup downloads " + ", ".join(each.name for each in entries) + ".")
    for each in entries:
        if not fetched:
            groups += _checkpoint(each)
        if isinstance(each, PromptModelEntry):
            environment["DREAM_RENDER_PROMPT_MODEL"] = each.name
    if not any(isinstance(each, ModelEntry) for each in entries):
        notes.append("It contains only the embedded miniature; --checkpoint NAME adds a model.")
    more, variables, said = baked_networks() if networks else without_networks()
    return Plan(
        "dream-render",
        (*groups, *more),
        environment | variables,
        (*notes, *said),
    )


def with_compiled(plan: Plan, folder: Path) -> Plan:
    """Adds compiled code to a plan; it must come from a GPU of the same kind.

    Raises UserError if the folder contains none.
    """
    files = tree(folder) if folder.is_dir() else {}
    if not files:
        raise UserError(
            f"{folder.name} contains no compiled code; copy TORCHINDUCTOR_CACHE_DIR from a "
            "container that has generated an image with DREAM_O_SPEED=compiled"
        )
    group = Group("compiled", "compiled code, for the kind of GPU that made it", files)
    return replace(
        plan,
        groups=(*plan.groups, group),
        environment={**plan.environment, "TORCHINDUCTOR_CACHE_DIR": f"{SOURCE}/compiled"},
    )


def check_bundle(bundle: Bundle) -> None:
    """Compares every file's digest with the bundle's record; BundleError names the first."""
    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="sha256") as pool:
        for _ in pool.map(
            lambda item: check_file(bundle.folder, *item), sorted(bundle.files.items())
        ):
            pass


def bundle_files(bundle: Bundle) -> dict[str, Path]:
    """The files of a bundle and its documents, without any other files in its folder."""
    names = [BUNDLE_FILE, *bundle.files]
    names += [name for name in DOCUMENTS if (bundle.folder / name).is_file()]
    return {name: bundle.folder / name for name in names}


def bundle_text(bundle: Bundle) -> str:
    """A short description of a bundle."""
    turbo = "with" if bundle.turbo else "without"
    return f"DreamO {bundle.model_version}, {bundle.precision}, {turbo} turbo"


Networks = tuple[list[Group], dict[str, str], list[str]]


def baked_networks() -> Networks:
    """The reference networks' files, after a check of the manifest's digests.

    Raises UserError if a file is missing and BundleError if one has another digest.
    """
    remotes = _network_files()
    missing = [remote.path for remote in remotes if not (WEIGHTS / remote.local).is_file()]
    if missing:
        raise UserError(
            f"the networks that prepare references are not downloaded ({', '.join(missing)}); run "
            f"{DOWNLOAD_NETWORKS}, or leave them out with --no-networks"
        )
    for remote in remotes:
        if remote.sha256 and sha256(WEIGHTS / remote.local) != remote.sha256:
            raise BundleError(
                f"{remote.path} does not have the manifest's digest; run {DOWNLOAD_NETWORKS}"
            )
    files = {name: REFERENCE_NETWORKS / name for name in FILES}
    why = "the networks that prepare references (MIT)"
    group = Group(f"weights/{NETWORKS_FOLDER}", why, files)
    return [group], {"DREAM_O_REFERENCES": "networks"}, []


def without_networks() -> Networks:
    """No files, and the setting and the note of an image without the reference networks."""
    return [], {"DREAM_O_REFERENCES": "offline"}, [NO_NETWORKS]


def _network_files() -> list[Remote]:
    return [file for each in choose(read_manifest(MANIFEST), ["references"]) for file in each.files]


def _remote_networks(repository: HubAddress) -> tuple[str, int]:
    """The value of DREAM_O_REFERENCES that downloads the networks, and their size in bytes."""
    own = replace(repository, path=NETWORKS_FOLDER)
    try:
        answers = ask_all(
            partial(find, own.repository, f"{own.path}/{name}", own.revision or DEFAULT_REVISION)
            for name in FILES
        )
        return str(own), sum(answer.bytes for answer in answers)
    except BundleError:
        sets = choose(read_manifest(MANIFEST), ["references"])
        answers = ask_all(
            partial(find, each.repository, file.path, each.revision)
            for each in sets
            for file in each.files
        )
        return "fetch", sum(answer.bytes for answer in answers)


def _named(name: str) -> ModelEntry | PromptModelEntry:
    registry = read_registry()
    known: dict[str, ModelEntry | PromptModelEntry] = {**registry.models, **registry.prompt_models}
    if name not in known:
        raise unknown_name("--checkpoint", name, known, MODELS_LISTING)
    return known[name]


def _checkpoint(entry: ModelEntry | PromptModelEntry) -> list[Group]:
    if not entry.installed:
        raise UserError(
            f"{entry.name} is not downloaded; run dream-o render download {entry.name}, or let "
            "setup download it with --fetch"
        )
    sources = [entry.source]
    if isinstance(entry, ModelEntry):
        sources += [each for each in (entry.vae, entry.tokenizer) if each]
    own = [each for each in sources if not each.on_hub and not each.text.startswith(EMBEDDED)]
    why = f"{entry.name} ({entry.licence})"
    groups = [_own_source(entry.name, each, why) for each in own]
    places: dict[str, dict[str, Path]] = {}
    for file in entry.files:
        place, name = _place(file.source, file.name)
        places.setdefault(place, {})[name] = file.path
    return groups + [Group(place, why, files) for place, files in places.items()]


def _own_source(name: str, source: Source, why: str) -> Group:
    place = PurePosixPath(source.text)
    if place.is_absolute() or ".." in place.parts or place.parts[0] != "weights":
        raise UserError(
            f"models.toml: {name}: a source outside weights/ cannot be put into an image; move it "
            "there and set its path to weights/..."
        )
    path = source.path
    return Group(source.text, why, tree(path) if path.is_dir() else {"": path})


def _place(source: Source, name: str) -> tuple[str, str]:
    inside = source.path.relative_to(WEIGHTS) / name
    folder = Path(*inside.parts[:3])  # checkpoints / owner / repository
    return f"weights/{folder.as_posix()}", inside.relative_to(folder).as_posix()
