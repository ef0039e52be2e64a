import json
from dataclasses import replace

import pytest
from PIL import Image

from dream_o.batch import checking, identity
from dream_o.batch.checking import Checker
from dream_o.batch.command import main
from dream_o.batch.identity import identify
from dream_o.batch.intake import BadRowsError
from dream_o.batch.reading import Row
from dream_o.errors import SettingError, UserError
from dream_o.references import OFFLINE
from dream_o.server.openapi import openapi_document
from dream_o.server.predictors import DEFAULT, load_predictor
from dream_o.service import backend
from dream_o.service.settings import Settings
from dream_o.weights.format.bundle import read_bundle
from tests.batch.conftest import numbered
from tests.requests_table import encoded, picture


@pytest.fixture
def checker(tmp_path):
    return Checker(openapi_document(type(load_predictor(DEFAULT))), {}, str(tmp_path), "bundle")


def test_all_mistakes_of_all_rows_are_reported_at_once(tried):
    requests = tried.requests(
        {"name": "a", "prompt": "x", "width": 700, "ref_task1": "face"},
        {"name": "b/c", "prompt": "x"},
        {"prompt": "x", "promt": "y"},
        {"name": "d", "prompt": " "},
        {"name": "e", "prompt": "x", "seed": -2, "num_steps": "many"},
        {"name": "f", "prompt": "x", "ref_image1": "nowhere.png"},
        {"name": "g", "prompt": "x", "width": 770, "seed": -2},
        *numbered(2),
        {"name": "A-1", "prompt": "x"},
        {"name": "Contact-Sheet", "prompt": "x"},
    )
    with pytest.raises(BadRowsError) as refused:
        tried.run(requests)
    assert str(refused.value) == (
        "9 of 11 rows are wrong, and no image was made; correct them, or add --skip-bad to go on "
        "without them"
    )
    assert [each for each in refused.value.sentences if "promt" not in each] == [
        "line 1: ref_task1: 'face' is not allowed; use ip, id or style",
        "line 1: width: 700 is out of range; use 768 to 1024",
        "line 2: name: 'b/c' is not allowed; use 1 to 120 letters, digits and _ . + - that start "
        "with a letter, a digit or _",
        "line 3: name: is required; give each request a name, after which its file is named",
        "line 4: prompt: is empty; describe the image, or give a reference image",
        "line 5: num_steps: 'many' is not a whole number",
        "line 6: ref_image1: there is no file nowhere.png",
        "line 7: width: 770 is not a multiple of 16; the nearest allowed values are 768 and 784",
        "line 7: seed: -2 is out of range; use 0 to 2^64-1, or -1 for a random one",
        "line 10: name: 'A-1' is also the name of line 9; give each request a name of its own",
        "line 11: name: contact-sheet is the name of the contact sheet; use another",
    ]
    assert any(
        each.startswith("line 3: promt: there is no such input; did you mean prompt?")
        for each in refused.value.sentences
    )
    assert tried.prompts == []


def test_with_skip_bad_only_the_correct_rows_are_made(tried):
    requests = tried.requests({"name": "bad", "prompt": "x", "width": 700}, *numbered(2))
    summary = tried.run(requests, skip_bad=True)
    assert (summary.rows, summary.bad, summary.failed) == (2, 1, 0)
    assert tried.images() == ["a-0.webp", "a-1.webp"]
    (told,) = map(json.loads, (tried.output / "failed.jsonl").read_text().splitlines())
    assert told == {
        "line": 1,
        "name": "bad",
        "errors": ["width: 700 is out of range; use 768 to 1024"],
        "request": {"name": "bad", "prompt": "x", "width": 700},
    }


def test_texts_of_a_csv_file_get_the_types_of_the_inputs(tried):
    file = tried.folder / "a.csv"
    file.write_text("name,prompt,width,guidance,seed\n1,a hill,784,4.5,7\nb,a hill,wide,4,\n")
    with pytest.raises(BadRowsError) as refused:
        tried.run(str(file))
    assert refused.value.sentences == ["line 3: width: 'wide' is not a whole number"]
    tried.run(str(file), skip_bad=True)
    assert tried.images() == ["1.webp"]


def test_a_template_has_the_defaults_of_the_rows(tried):
    (tried.folder / "template.json").write_text('{"prompt": "a hill", "output_format": "png"}')
    requests = tried.requests({"name": "a"}, {"name": "b", "output_format": "jpg"})
    tried.run(requests, template=str(tried.folder / "template.json"))
    assert tried.images() == ["a.png", "b.jpg"]


def test_references_are_opened_first_only_if_the_user_asks_for_it(tried):
    (tried.folder / "text.png").write_bytes(b"no image")
    (tried.folder / "grey.png").write_bytes(encoded(picture()))
    requests = tried.requests(
        {"name": "a", "prompt": "x", "ref_image1": "text.png"},
        {"name": "b", "prompt": "x", "ref_image1": "grey.png", "ref_task1": "id"},
        {"name": "c", "prompt": "x", "ref_image1": "grey.png"},
    )
    with pytest.raises(BadRowsError) as refused:
        tried.run(requests, check_references=True)
    first, second = refused.value.sentences
    assert first.startswith("line 1: ref_image1: this is not an image")
    assert second.startswith("line 2: ref_image1: no face found")
    assert tried.run(requests).rows == 3


def test_the_digest_covers_the_request_the_reference_and_the_bundle(checker, tmp_path):
    file = tmp_path / "a.png"
    row = Row(1, {"name": "a", "prompt": "x", "ref_image1": "a.png"})

    def digest(row=row, checker=checker):
        checked = checker.check(row)
        assert not checked.problems
        return checked.digest

    file.write_bytes(b"one")
    first = digest()
    assert digest() == first
    file.write_bytes(b"another")
    second = digest()
    assert second != first
    assert digest(Row(9, {**row.values, "guidance": 4.0})) != second
    assert digest(Row(9, {**row.values, "name": "b"})) == second
    other = Checker(checker.document, {}, checker.folder, "another bundle")
    assert digest(checker=other) != second


def test_the_digest_covers_the_backend_if_there_are_references(checker, tmp_path):
    (tmp_path / "a.png").write_bytes(b"one")
    other = replace(checker, prepared_by="networks")
    used = Row(1, {"name": "a", "prompt": "x", "ref_image1": "a.png"})
    unused = Row(1, {"name": "a", "prompt": "x"})
    assert checker.check(used).digest != other.check(used).digest
    assert checker.check(unused).digest == other.check(unused).digest


def test_the_digest_covers_the_dtype_and_the_speed_mode():
    settings = Settings(weights="miniature")
    first, _ = identify(settings)
    assert identify(replace(settings, device="cpu", offload="none"))[0] == first
    assert identify(replace(settings, dtype="float32"))[0] != first
    assert identify(replace(settings, speed="exact"))[0] != first


def test_a_branch_of_the_hub_is_resolved_to_its_commit(fused, monkeypatch):
    bundle = read_bundle(fused("v1.1", True))
    found = {"commit": "c0ffee", "bundle": bundle}

    def record(address):
        assert (address.repository, address.revision) == ("me/bundle", "main")
        return b"", found["bundle"], found["commit"]

    monkeypatch.setattr(identity, "fetch_record", record)
    settings = Settings(weights="hf://me/bundle@main")
    first, pinned = identify(settings)
    assert pinned.weights == "hf://me/bundle@c0ffee"
    found["commit"] = "decade"
    assert identify(settings)[0] == first
    found["bundle"] = replace(bundle, turbo=not bundle.turbo)
    assert identify(settings)[0] != first


def test_integers_and_equal_floats_make_the_same_request(checker):
    row = {"name": "a", "prompt": "x", "seed": 7, "width": 768, "guidance": 4}
    decimal = {"name": "a", "prompt": "x", "seed": 7.0, "width": 768.0, "guidance": 4.0}
    first, second = checker.check(Row(1, row)), checker.check(Row(1, decimal))
    assert first.digest == second.digest
    assert [type(second.inputs[name]) for name in ("seed", "width", "guidance")] == [
        int,
        int,
        float,
    ]
    (problem,) = checker.check(Row(1, row | {"seed": 7.5})).problems
    assert problem == "seed: 7.5 is not a whole number"


def test_networks_are_loaded_and_a_shared_reference_is_opened_once(checker, tmp_path, monkeypatch):
    loaded, searched = [], []

    def find_faces(pixels):
        searched.append(1)
        return []

    def load(choice, device):
        loaded.append(choice)
        return replace(OFFLINE, find_faces=find_faces)

    monkeypatch.setattr(backend, "ready_backend", load)
    monkeypatch.setattr(checking, "_found", {})
    backend.cpu_backend.cache_clear()
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "a.png")
    Image.new("RGB", (64, 64), "white").save(tmp_path / "b.png")
    opening = replace(checker, backend="networks")
    for name in ("a.png", "b.png", "a.png", "a.png"):
        row = Row(1, {"name": "a", "prompt": "x", "ref_image1": name, "ref_task1": "id"})
        (problem,) = opening.check(row).problems
        assert problem.startswith("ref_image1: no face found")
    assert loaded == ["networks"]
    assert len(searched) == 2
    backend.cpu_backend.cache_clear()


def test_a_wrong_setting_is_one_error_and_not_a_mistake_in_each_row(tried, monkeypatch):
    def refuse(choice, device):
        raise SettingError("DREAM_O_REFERENCES", choice, "needs files that are missing")

    monkeypatch.setattr(backend, "ready_backend", refuse)
    Image.new("RGB", (64, 64), "red").save(tried.folder / "red.png")
    rows = [{**row, "ref_image1": "red.png", "ref_task1": "id"} for row in numbered(2)]
    with pytest.raises(UserError, match=r"^DREAM_O_REFERENCES=.* needs files") as refused:
        tried.run(tried.requests(*rows), check_references=True)
    assert not isinstance(refused.value, BadRowsError)


def test_many_rows_are_checked_by_several_processes_in_order(checker, monkeypatch):
    monkeypatch.setattr(checking, "CHUNK", 2)
    rows = [Row(line, {"name": f"a{line}", "prompt": "x" * (line % 3)}) for line in range(1, 8)]
    checked = list(checker.check_all(iter(rows)))
    assert [each.line for each in checked] == [1, 2, 3, 4, 5, 6, 7]
    assert [each.line for each in checked if each.problems] == [3, 6]
    assert all(each.digest for each in checked if not each.problems)


def test_the_command_prints_every_mistake_and_one_error(tried, capsys):
    requests = tried.requests({"name": "a"}, {"name": "b", "prompt": "x", "width": 1})
    assert main([requests, "--output", str(tried.output), "--no-ray"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "line 1: prompt: is required",
        "line 2: width: 1 is out of range; use 768 to 1024",
        "error: 2 of 2 rows are wrong, and no image was made; correct them, or add --skip-bad to "
        "go on without them",
    ]
    assert not tried.output.exists()


def test_an_empty_file_is_refused(tried):
    requests = tried.requests()
    with pytest.raises(UserError, match=r"there are no requests in the file$"):
        tried.run(requests)
