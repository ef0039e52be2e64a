"""Sizes and SHA-256 of files that are read in blocks."""

import hashlib

import pytest

from dream_o.weights.format import digests


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 160, 163])
def test_a_file_of_any_number_of_blocks_has_its_digest_and_progress(tmp_path, monkeypatch, size):
    monkeypatch.setattr(digests, "BLOCK", 16)
    content = bytes(range(163))[:size]
    path = tmp_path / "file"
    path.write_bytes(content)
    seen = []
    assert digests.sha256(path, seen.append) == hashlib.sha256(content).hexdigest()
    assert sum(seen) == size
    assert b"".join(bytes(block) for block in digests.read_blocks(path)) == content
