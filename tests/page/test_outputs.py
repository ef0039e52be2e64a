import threading

import pytest
from PIL import Image

from dream_o.errors import UserError
from dream_o.images.writing import read_metadata
from dream_o.page import outputs as module
from dream_o.page.outputs import Outputs
from dream_o.service.request import Reference
from dream_o.service.result import Result

KEY, OTHER = "0" * 32, "f" * 32


@pytest.fixture
def outputs(tmp_path):
    return Outputs(tmp_path / "outputs")


def result(seed=5):
    return Result(Image.new("RGB", (32, 32), "teal"), {"prompt": "a hill", "seed": seed}, {})


def test_results_are_kept_with_their_settings_newest_first(outputs):
    names = [outputs.add(KEY, result(seed), "png", 90).name for seed in (5, 6, 7)]
    assert outputs.names(KEY) == names[::-1]
    entry = Outputs(outputs.folder).entry(KEY, names[0])
    assert entry.metadata == {
        "prompt": "a hill",
        "seed": 5,
        "output_format": "png",
        "output_quality": 90,
    }
    assert read_metadata(entry.path) == entry.metadata


def test_another_browser_sees_none_of_them(outputs):
    name = outputs.add(KEY, result(), "webp", 90).name
    assert outputs.names(OTHER) == []
    with pytest.raises(UserError, match="there is no such image"):
        outputs.path(OTHER, name)
    assert not any(KEY in str(path) for path in outputs.folder.rglob("*"))
    with pytest.raises(UserError, match="there is no such image"):
        outputs.at(KEY, name)


@pytest.mark.parametrize("name", ["../x.png", "x.png.json", "", ".", "references", "/etc/passwd"])
def test_a_name_that_is_no_results_gives_nothing(outputs, name):
    outputs.add(KEY, result(), "webp", 90)
    with pytest.raises(UserError, match="there is no such image"):
        outputs.path(KEY, name)


@pytest.mark.parametrize("key", ["", "..", "0" * 31, "G" * 32, None, 5])
def test_a_key_that_is_none_is_refused(outputs, key):
    with pytest.raises(UserError, match="reload it"):
        outputs.names(key)


def test_references_are_kept_once_and_come_back_with_the_result(outputs, hill):
    slots = (Reference(None, "ip"), Reference(hill, "style"))
    first = outputs.add(KEY, result(), "jpg", 90, slots)
    second = outputs.add(KEY, result(), "jpg", 90, slots)
    assert list(second.references) == [2]
    kept = second.references[2]
    assert kept == first.references[2]
    assert kept.task == "style"
    assert kept.image.read_bytes() == hill.read_bytes()


def test_a_damaged_file_hides_none_of_the_others(outputs):
    names = [outputs.add(KEY, result(seed), "png", 90).name for seed in (5, 6)]
    outputs.path(KEY, names[0]).write_bytes(b"cut off")
    assert [entry.name for entry in outputs.newest(KEY, 5)] == names[1:]


@pytest.mark.parametrize(
    "content", ["{", "{}", "[]", '{"references": [1]}', '{"references": {"1": {"file": 2}}}']
)
def test_damaged_references_leave_the_image(outputs, hill, content, caplog):
    slots = (Reference(hill, "ip"),)
    name = outputs.add(KEY, result(), "png", 90, slots).name
    file = outputs.path(KEY, name).with_name(f"{name}.json")
    file.write_text(content)
    (entry,) = outputs.newest(KEY, 5)
    assert entry.references == {}
    assert f"{file.name} is damaged" in caplog.text
    other = outputs.add(KEY, result(), "png", 90, slots).name
    outputs.delete(KEY, name)
    assert outputs.entry(KEY, other).references[1].image.is_file()


def test_deleting_takes_the_references_that_nothing_else_uses(outputs, hill):
    slots = (Reference(hill, "ip"),)
    first = outputs.add(KEY, result(), "png", 90, slots)
    second = outputs.add(KEY, result(), "png", 90, slots)
    outputs.delete(KEY, first.name)
    assert outputs.names(KEY) == [second.name]
    assert outputs.entry(KEY, second.name).references[1].image.is_file()
    outputs.delete(KEY, second.name)
    assert [path for path in outputs.folder.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("point", ["atomic_write", "write_image"])
def test_deleting_a_result_keeps_the_references_of_one_that_is_being_written(
    outputs, hill, monkeypatch, point
):
    slots = (Reference(hill, "ip"),)
    first = outputs.add(KEY, result(), "png", 90, slots)
    deleting = threading.Thread(target=outputs.delete, args=(KEY, first.name))
    write = getattr(module, point)

    def delete_and_write(*arguments):
        deleting.start()
        deleting.join(0.1)
        return write(*arguments)

    monkeypatch.setattr(module, point, delete_and_write)
    second = outputs.add(KEY, result(), "png", 90, slots)
    deleting.join(10)
    assert outputs.names(KEY) == [second.name]
    assert outputs.entry(KEY, second.name).references[1].image.is_file()


def test_a_damaged_image_keeps_its_references_until_it_is_deleted(outputs, hill):
    damaged = outputs.add(KEY, result(), "png", 90, (Reference(hill, "ip"),))
    damaged.path.write_bytes(b"cut off")
    outputs.delete(KEY, outputs.add(KEY, result(), "png", 90).name)
    assert damaged.references[1].image.is_file()


def test_an_image_that_cannot_be_written_leaves_nothing(outputs, hill, monkeypatch):
    def full(*_):
        raise UserError("the image cannot be written: the disk is full")

    monkeypatch.setattr(module, "write_image", full)
    with pytest.raises(UserError, match="the disk is full"):
        outputs.add(KEY, result(), "png", 90, (Reference(hill, "ip"),))
    assert [path for path in outputs.folder.rglob("*") if path.is_file()] == []


def test_a_file_that_cannot_be_written_is_told_without_its_path(tmp_path):
    blocked = tmp_path / "outputs"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="the image cannot be kept") as error:
        Outputs(blocked).add(KEY, result(), "png", 90)
    assert str(tmp_path) not in str(error.value)
