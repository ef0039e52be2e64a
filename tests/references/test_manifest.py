"""The networks' files, as the weights manifest names them."""

import pytest

from dream_o.errors import BundleError
from dream_o.paths import REFERENCE_NETWORKS
from dream_o.references.networks import FILES
from dream_o.weights.fetch.manifest import choose, read_manifest
from tests import ROOT

MANIFEST = read_manifest(ROOT / "weights" / "manifest.toml")


def test_download_references_gets_every_file_where_it_is_looked_for():
    sets = choose(MANIFEST, ["references"])
    places = {ROOT / "weights" / file.local for each in sets for file in each.files}
    assert places == {REFERENCE_NETWORKS / file for file in FILES}


def test_their_digests_and_licences_are_known_before_the_download():
    for each in choose(MANIFEST, ["references"]):
        assert each.licence == "MIT"
        assert all(len(file.sha256) == 64 for file in each.files)


def test_the_digests_are_those_of_unifaces_registry():
    from uniface.constants import MODEL_REGISTRY, ParsingWeights, RetinaFaceWeights

    known = {file.path: file.sha256 for each in MANIFEST.values() for file in each.files}
    for model in (RetinaFaceWeights.RESNET50, ParsingWeights.RESNET18):
        assert known[f"{model.value}.onnx"] == MODEL_REGISTRY[model].sha256


def test_nothing_of_them_is_downloaded_unasked():
    assert "references" not in {each.group for each in choose(MANIFEST, [])}


def test_an_unknown_name_is_told_what_there_is():
    with pytest.raises(BundleError, match=r"use .*ben2.*references"):
        choose(MANIFEST, ["no-such"])
