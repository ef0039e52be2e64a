"""The server that downloads are measured against."""

from pathlib import Path

import httpx

from benchmarks.generated_bundle import forget, read_all
from benchmarks.served import served


def test_files_ranges_and_sizes_are_served(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    with served(tmp_path) as url:
        assert httpx.get(f"{url}/file").content == content
        part = httpx.get(f"{url}/file", headers={"Range": "bytes=100-299"})
        assert (part.status_code, part.content) == (206, content[100:300])
        assert httpx.head(f"{url}/file").headers["Content-Length"] == str(len(content))
        assert httpx.get(f"{url}/none").status_code == 404


def test_a_folder_is_read_whole_in_and_out_of_the_page_cache(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(bytes(100_000))
    (tmp_path / "file").write_bytes(bytes(7))
    forget(tmp_path)
    assert read_all(tmp_path) == 100_007
