"""The faults benchmark: what it takes for a problem, and that it finds nothing in good answers."""

import io
import json

import pytest

from benchmarks.faults import images
from benchmarks.faults.fuzz import _answers
from benchmarks.faults.served import Served
from dream_o.errors import InputError


@pytest.fixture
def served(tmp_path) -> Served:
    """A server that is not started."""
    served = Served.__new__(Served)
    served.temporary, served.problems = tmp_path, []
    return served


@pytest.mark.parametrize(
    ("status", "text", "wrong"),
    [
        (200, '{"status": "failed", "error": "width: 770 is not a multiple of 16"}', False),
        (422, '{"detail": [{"loc": ["body"], "msg": "is a required property"}]}', False),
        (503, '{"error": "starting"}', False),
        (500, '{"error": "no"}', True),
        (502, '{"error": "no"}', True),
        (200, '{"error": "Traceback (most recent call last)"}', True),
        (200, '{"error": "in /usr/lib/python3.11/site-packages/x"}', True),
        (200, '{"logs": "File predict.py, line 3"}', True),
        (200, '{"output": "data:image/png;base64,/tmp/Traceback.py"}', False),
    ],
)
def test_what_no_answer_may_be(served: Served, status: int, text: str, wrong: bool) -> None:
    served.check("a request", status, text)
    assert bool(served.problems) is wrong


def test_an_answer_with_the_temporary_folder_in_it_is_a_problem(served: Served) -> None:
    served.check("a request", 200, json.dumps({"error": f"{served.temporary}/upload"}))
    assert served.problems


def test_crafted_and_damaged_files_are_many_kinds_and_the_same_every_time() -> None:
    names = [name for name, _ in images.crafted()]
    assert len(names) == len(set(names)) > 80
    assert list(images.damaged(30)) == list(images.damaged(30))
    assert list(images.damaged(30, seed=1)) != list(images.damaged(30))


def test_an_image_that_raises_anything_else_is_a_problem(monkeypatch) -> None:
    outcomes = iter([InputError("ref_image1", "no"), MemoryError("too much")])

    def broken(file: io.BytesIO, name: str) -> None:
        raise next(outcomes)

    monkeypatch.setattr(images, "open_image", broken)
    problems: list[str] = []
    row = images.attack(iter([("one", b"x"), ("two", b"y")]), "files", problems)
    assert row["cases"] == 2
    assert "1 refused, 0 used, 1 other" in str(row["result"])
    assert problems == ["files, two: MemoryError: too much"]


def test_every_answer_of_a_report_is_read() -> None:
    line = {"a": [{"response": {"status_code": 200}}, {"b": {"response": {"status_code": 404}}}]}
    assert [status for status, _ in _answers(line)] == [200, 404]
