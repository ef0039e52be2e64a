import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dream_o.batch import trying
from dream_o.batch.reading import read_combinations, read_rows
from dream_o.errors import UserError


def values_of(rows):
    return [dict(row.values) for row in rows]


def test_json_lines_have_a_header_for_what_is_common(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"common": {"width": 768, "seed": 1}}\n\n{"name": "a", "seed": 2, "prompt": null}\n'
        '{"name": "b", "width": null}\n'
    )
    assert values_of(read_rows(str(file))) == [
        {"name": "a", "width": 768, "seed": 2},
        {"name": "b", "width": 768, "seed": 1},
    ]
    assert [row.line for row in read_rows(str(file))] == [3, 4]


def test_a_line_that_is_not_json_is_a_row_with_a_problem(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"name": "a"}\n{"name": \n[1]\n')
    problems = [(row.line, row.problem) for row in read_rows(str(file))]
    assert problems[0] == (1, "")
    assert problems[1][1].startswith("this is not JSON: ")
    assert problems[2] == (3, "this is not a JSON object; give inputs by name")


def test_empty_cells_of_a_csv_file_are_not_given(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text('name,prompt,seed\na,"a hill, green",\nb,,7\nc,x\n')
    rows = list(read_rows(str(file)))
    assert values_of(rows[:2]) == [
        {"name": "a", "prompt": "a hill, green"},
        {"name": "b", "seed": "7"},
    ]
    assert all(row.is_text for row in rows[:2])
    assert (rows[2].line, rows[2].problem) == (
        4,
        "the row does not have as many cells as the header",
    )


def parquet(folder, **columns):
    file = folder / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return list(read_rows(str(file)))


def test_null_and_nan_in_a_parquet_file_count_as_missing(tmp_path):
    rows = parquet(
        tmp_path, name=["a", "b"], ref_image1=[b"png", None], width=[768.0, float("nan")]
    )
    assert values_of(rows) == [{"name": "a", "ref_image1": b"png", "width": 768.0}, {"name": "b"}]


def test_decimals_are_numbers_and_other_types_are_refused_with_their_column(tmp_path):
    (row,) = parquet(
        tmp_path,
        name=["a"],
        guidance=[Decimal("4.50")],
        width=[Decimal("768.00")],
        prompt=pyarrow.array(["a hill"]).dictionary_encode(),
        seed=pyarrow.array([1], pyarrow.timestamp("ns")),
        neg_prompt=[date(2026, 1, 1)],
        ref_res=[[512, 768]],
        height=[float("inf")],
    )
    assert row.values == {"name": "a", "guidance": 4.5, "width": 768, "prompt": "a hill"}
    assert row.refused == {
        "seed": "a date or a time is not allowed; give a text or a number",
        "neg_prompt": "a date or a time is not allowed; give a text or a number",
        "ref_res": "a list or an object is not allowed; give one value",
        "height": "the number is not finite; give another or leave it out",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 100_000, "lists or objects are nested too deeply"),
        ('{"guidance": NaN}', "NaN is not allowed; leave the input out or give null"),
        ('{"guidance": -Infinity}', "-Infinity is not allowed; leave the input out or give null"),
    ],
)
def test_json_with_nan_infinity_or_deep_nesting_is_refused(tmp_path, text, problem):
    file = tmp_path / "a.jsonl"
    file.write_text(text)
    (row,) = read_rows(str(file))
    assert row.problem == f"this is not JSON: {problem}"
    file = tmp_path / "grid.json"
    file.write_text(text)
    with pytest.raises(UserError, match=f"this is not JSON: {problem}$"):
        list(read_combinations(str(file)))


def test_lists_and_infinite_numbers_in_json_are_refused_with_their_input(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"name": "a", "seed": [1]}) + '\n{"name": "b", "guidance": 1e999}')
    first, second = read_rows(str(file))
    assert first.refused == {"seed": "a list or an object is not allowed; give one value"}
    assert second.refused == {"guidance": "the number is not finite; give another or leave it out"}


def test_a_cell_of_a_csv_file_may_be_a_whole_image(tmp_path):
    file = tmp_path / "a.csv"
    url = "data:image/png;base64," + "A" * 400_000
    file.write_text(f'name,ref_image1\na,"{url}"\n')
    assert values_of(read_rows(str(file))) == [{"name": "a", "ref_image1": url}]


def test_files_come_from_wherever_fsspec_reads(tmp_path):
    with fsspec.open("memory://bucket/a.jsonl", "w") as file:
        file.write('{"name": "a"}\n')
    assert values_of(read_rows("memory://bucket/a.jsonl")) == [{"name": "a"}]


def test_an_interrupted_download_is_tried_again_and_then_an_error(monkeypatch):
    monkeypatch.setattr(trying, "PAUSES", (0.0,))
    with fsspec.open("memory://bucket/b.jsonl", "w") as file:
        file.write('{"name": "a"}\n')
    get = MemoryFileSystem.get_file
    broken = [RuntimeError("the payload is not completed")]

    def breaking(system, source, target, **options):
        if broken:
            Path(target).write_text('{"na')
            raise broken.pop()
        get(system, source, target, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", breaking)
    assert values_of(read_rows("memory://bucket/b.jsonl")) == [{"name": "a"}]
    broken += [RuntimeError("again")] * 2
    with pytest.raises(UserError, match=r"b.jsonl: the file cannot be read: RuntimeError$"):
        list(read_rows("memory://bucket/b.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.txt", b"", "the suffix is not one of .jsonl, .ndjson, .csv, .parquet; use one of them"),
        ("a.parquet", b"PAR1", "this Parquet file cannot be read: Parquet file size is 4 bytes"),
        ("a.csv", b"", "the file is empty; its first line names the columns"),
        ("a.csv", b"name,seed,name\n", "the column 'name' occurs twice; remove one"),
        ("a.csv", b"name\n\xff\xfe\n", "this is not a CSV file in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, content, error):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        list(read_rows(str(file)))
    assert str(refused.value).startswith(f"{file}: {error}")


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("nowhere.jsonl", "the file cannot be read: No such file or directory"),
        ("made-up://x/a.jsonl", "there is no file system for made-up://"),
    ],
)
def test_a_file_that_is_not_there_is_told(address, error):
    with pytest.raises(UserError, match=f"^{address}: {error}$"):
        list(read_rows(address))


def test_a_matrix_is_every_combination_of_its_lists(tmp_path):
    file = tmp_path / "grid.json"
    mug = {"ref_image1": "mug.png", "ref_task1": "ip"}
    grid = {"prompt": ["a", "b"], "references": [{}, mug], "seed": [4, 5, 6], "width": 768}
    file.write_text(json.dumps(grid))
    rows = values_of(read_combinations(str(file)))
    assert len(rows) == 12
    assert len({row["name"] for row in rows}) == 12
    assert rows[0] == {"name": "prompt1-references1-seed1", "prompt": "a", "seed": 4, "width": 768}
    assert rows[-1] == {
        "name": "prompt2-references2-seed3",
        "prompt": "b",
        "seed": 6,
        "width": 768,
        **mug,
    }


@pytest.mark.parametrize(
    ("grid", "error"),
    [
        ({"prompt": "a"}, "there is no list; give at least one input as a list of values"),
        ({"prompt": []}, "the list of prompt is empty; give it at least one value"),
        ([], "this is not a JSON object; give inputs by name"),
    ],
)
def test_a_matrix_without_lists_is_refused(tmp_path, grid, error):
    file = tmp_path / "grid.json"
    file.write_text(json.dumps(grid))
    with pytest.raises(UserError, match=f"{error}$"):
        list(read_combinations(str(file)))
