import base64
import json

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from dream_o.batch.reading import read_combinations, read_rows
from dream_o.errors import UserError


def values_of(rows):
    return [dict(row.values) for row in rows]


def test_json_lines_have_a_header_for_what_is_common(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(
        '{"common": {"width": 768, "seed": 1}}\n\n{"name": "a", "seed": 2, "prompt": null}\n'
    )
    assert values_of(read_rows(str(file))) == [{"name": "a", "width": 768, "seed": 2}]
    assert [row.line for row in read_rows(str(file))] == [3]


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
    assert (rows[2].line, rows[2].problem) == (4, "the row has not as many cells as the first")


def test_bytes_of_a_parquet_file_become_data_urls(tmp_path):
    file = tmp_path / "a.parquet"
    table = pyarrow.table({"name": ["a", "b"], "ref_image1": [b"png", None], "width": [768, None]})
    pyarrow.parquet.write_table(table, file)
    content = base64.b64encode(b"png").decode()
    assert values_of(read_rows(str(file))) == [
        {
            "name": "a",
            "ref_image1": f"data:application/octet-stream;base64,{content}",
            "width": 768,
        },
        {"name": "b"},
    ]


def test_files_come_from_wherever_fsspec_reads(tmp_path):
    with fsspec.open("memory://bucket/a.jsonl", "w") as file:
        file.write('{"name": "a"}\n')
    assert values_of(read_rows("memory://bucket/a.jsonl")) == [{"name": "a"}]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("a.txt", b"", "the suffix is not one of .jsonl, .ndjson, .csv, .parquet; use one of them"),
        ("a.parquet", b"PAR1", "this is not a Parquet file"),
        ("a.csv", b"", "the file is empty; its first line names the columns"),
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
