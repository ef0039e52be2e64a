"""References inside the file of requests are stored once, as files, so that rows stay small."""

import base64
import errno
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dream_o.batch.contents import Contents, as_data_url
from dream_o.batch.in_process import InProcess
from dream_o.batch.intake import BadRowsError
from dream_o.batch.reading import Row
from dream_o.batch.storage import Storage
from dream_o.errors import UserError
from tests.batch.conftest import numbered
from tests.requests_table import encoded, picture


@pytest.fixture
def contents(tmp_path):
    folder = tmp_path / "contents"
    folder.mkdir()
    return Contents(folder, ["ref_image1", "ref_image2"])


def test_the_same_image_is_stored_once_in_any_form(contents):
    content = encoded(picture())
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    forms = [as_data_url(content), url, content]
    rows = [contents.keep(Row(line, {"ref_image2": form})) for line, form in enumerate(forms)]
    paths = {row.values["ref_image2"] for row in rows}
    (file,) = contents.folder.iterdir()
    assert paths == {str(file)}
    assert file.read_bytes() == content
    assert contents.with_data_urls(rows[0].values) == {"ref_image2": as_data_url(content)}


def test_bytes_of_text_inputs_are_decoded(contents):
    row = contents.keep(Row(1, {"name": b"a", "prompt": b"data: a hill", "seed": b"\xff"}))
    assert row.values == {"name": "a", "prompt": "data: a hill"}
    assert row.refused == {"seed": "the bytes are not text in UTF-8; store the column as text"}


def test_a_reference_is_copied_to_the_output_folder_once(contents, tmp_path, monkeypatch):
    storage = Storage(str(tmp_path / "out"))
    row = contents.keep(Row(1, {"ref_image1": b"one", "ref_image2": b"two", "prompt": "x"}))
    sent = contents.send(row.values, storage)
    monkeypatch.setattr(storage, "write", None)
    assert contents.send(row.values, storage) == sent
    assert sent["prompt"] == "x"
    for name, content in (("ref_image1", b"one"), ("ref_image2", b"two")):
        assert storage.read(sent[name].removeprefix(f"{storage.address}/")) == content


def test_a_full_temporary_folder_is_one_error(contents, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        UserError, match=r"^the temporary folder cannot be written: the disk is full; set TMPDIR"
    ):
        contents.keep(Row(1, {"ref_image1": b"one"}))


def test_mistakes_in_bytes_are_reported_with_line_and_column(tried):
    table = pyarrow.table(
        {
            "name": [b"a", b"b"],
            "prompt": [b"a hill", b"\xff\xfe"],
            "ref_image1": ["data:image/png;base64,AAAA=A", None],
        }
    )
    pyarrow.parquet.write_table(table, tried.folder / "a.parquet")
    with pytest.raises(BadRowsError) as refused:
        tried.run(str(tried.folder / "a.parquet"))
    assert refused.value.sentences == [
        "line 1: ref_image1: this is not a base64 data URL",
        "line 2: prompt: the bytes are not text in UTF-8; store the column as text",
    ]


def test_rows_may_contain_images_and_failed_jsonl_keeps_them(tried):
    url = as_data_url(encoded(picture()))
    requests = tried.requests(
        {"name": "a", "prompt": "x", "ref_image1": url},
        {"name": "b", "prompt": "x", "ref_image1": url, "width": 1},
    )
    tried.run(requests, skip_bad=True)
    assert tried.images() == ["a.webp"]
    (told,) = map(json.loads, (tried.output / "failed.jsonl").read_text().splitlines())
    assert told["request"] == {"name": "b", "prompt": "x", "ref_image1": url, "width": 1}
    assert tried.run(requests, skip_bad=True).skipped == 1


def test_a_template_may_contain_an_image_and_its_mistakes_are_reported(tried):
    template = tried.folder / "template.json"
    template.write_text(json.dumps({"ref_image1": as_data_url(encoded(picture()))}))
    requests = tried.requests({"name": "a", "prompt": "x"})
    assert tried.run(requests, template=str(template)).failed == 0
    template.write_text('{"seed": [1, 2]}')
    with pytest.raises(UserError, match=r"^--template: seed: a list or an object is not allowed"):
        tried.run(requests, template=str(template))


def test_memory_does_not_grow_with_the_images_in_the_rows(tried):
    """The file has 16 rows of a megabyte, 21 MB of text; only few rows are in memory at a time."""
    requests = tried.requests(
        *(
            {"name": f"a{number}", "prompt": "x", "ref_image1": as_data_url(os.urandom(2**20))}
            for number in range(16)
        )
    )
    tried.run(tried.requests(*numbered(1), name="imports.jsonl"))
    peaks, sizes = [], []

    class Measuring(InProcess):
        def make(self, tasks, run):
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            sizes.extend(len(json.dumps(dict(task.inputs))) for task in tasks)
            raise KeyboardInterrupt

    tracemalloc.start()
    with pytest.raises(KeyboardInterrupt):
        tried.run(requests, Measuring)
    assert peaks[0] < 10_000_000
    assert max(sizes) < 2000
