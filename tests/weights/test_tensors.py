"""Files with invalid safetensors headers."""

import json
import struct
from pathlib import Path

import pytest

from dream_o.errors import BundleError
from dream_o.weights.format.tensors import read_header


def header(offsets: object, shape: object = (2,), dtype: object = "F32") -> bytes:
    """A header with one tensor."""
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"w": 1}',
        b'{"w": {"dtype": "F32"}}',
        header([]),
        header([0]),
        header(["0", "8"]),
        header([0.0, 8.0]),
        header([-8, 0]),
        header([0, 8], shape=[2.0]),
        header([0, 8], shape=[-1, -2]),
        header([0, 8], shape=2),
        header([0, 8], dtype=["F32"]),
        header([0, 8], dtype="C64"),
    ],
)
def test_an_invalid_header_is_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(BundleError, match=r"/model\.safetensors is not a safetensors file$"):
        read_header(path)


def test_a_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(BundleError, match=r"/model\.safetensors cannot be read: Is a directory$"):
        read_header(tmp_path / "model.safetensors")
