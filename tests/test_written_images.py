"""Images out, with the metadata that makes them again."""

import errno
import json

import numpy as np
import pytest
from PIL import Image

from dream_o.errors import UserError
from dream_o.images.writing import FORMATS, read_metadata, write_image
from tests.gradients import SIZE, distance, gradient

PROMPTS = ["a cat", "", "猫が歩いている", "кот, گربه, 🐈", 'quotes " and \\ and\nlines', "\ud800"]


class TestWriting:
    @pytest.mark.parametrize("prompt", PROMPTS)
    @pytest.mark.parametrize("format", FORMATS)
    def test_metadata_comes_back(self, format, prompt, tmp_path):
        metadata = {"prompt": prompt, "seed": 2**63 - 1, "guidance": 3.5, "cfg": None, "a": [1, 2]}
        path = write_image(Image.fromarray(gradient()), format, 80, metadata, tmp_path)
        assert read_metadata(path) == metadata

    def test_metadata_is_where_other_programs_look(self, tmp_path):
        image = Image.fromarray(gradient())
        metadata = {"prompt": "a cat", "seed": 1}
        with Image.open(write_image(image, "png", 80, metadata, tmp_path)) as png:
            assert json.loads(png.text["parameters"]) == metadata
        for format in ("jpg", "webp"):
            with Image.open(write_image(image, format, 80, metadata, tmp_path)) as written:
                comment = written.getexif().get_ifd(0x8769)[0x9286]
            assert comment[:8] == b"ASCII\0\0\0"
            assert json.loads(comment[8:]) == metadata

    def test_a_file_without_metadata_is_said_to_have_none(self, tmp_path):
        for suffix in ("png", "jpg", "webp"):
            path = tmp_path / f"plain.{suffix}"
            Image.new("RGB", SIZE).save(path)
            with pytest.raises(UserError, match="no metadata"):
                read_metadata(path)

    def test_a_very_long_prompt_is_shortened_in_a_jpg_and_whole_elsewhere(self, tmp_path, caplog):
        metadata = {"prompt": "猫" * 30_000, "seed": 5}
        image = Image.fromarray(gradient())
        for format in ("png", "webp"):
            assert read_metadata(write_image(image, format, 80, metadata, tmp_path)) == metadata
        found = read_metadata(write_image(image, "jpg", 80, metadata, tmp_path))
        assert found["seed"] == 5
        assert len(found["prompt"]) > 1000
        assert metadata["prompt"].startswith(found["prompt"])
        assert "shortened" in caplog.text

    @pytest.mark.parametrize(
        ("format", "signature"),
        [("png", b"\x89PNG"), ("jpg", b"\xff\xd8\xff"), ("webp", b"RIFF")],
    )
    def test_the_suffix_says_what_the_bytes_are(self, format, signature, tmp_path):
        path = write_image(Image.fromarray(gradient()), format, 80, {}, tmp_path)
        assert path.suffix == f".{format}"
        assert path.read_bytes().startswith(signature)
        with Image.open(path) as image:
            assert (image.size, image.mode) == (SIZE, "RGB")

    def test_png_keeps_the_pixels(self, tmp_path):
        path = write_image(Image.fromarray(gradient()), "png", 1, {"seed": 1}, tmp_path)
        assert distance(Image.open(path), gradient()) == 0

    @pytest.mark.parametrize("format", ["webp", "jpg"])
    def test_quality_from_0_to_100(self, format, tmp_path):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        sizes = [
            write_image(Image.fromarray(noise), format, quality, {}, tmp_path).stat().st_size
            for quality in (0, 30, 80, 100)
        ]
        assert sizes == sorted(sizes)
        assert sizes[0] * 2 < sizes[-1]

    @pytest.mark.parametrize("format", FORMATS)
    def test_the_same_image_and_metadata_give_the_same_bytes(self, format, tmp_path):
        image = Image.fromarray(gradient())
        first, second = (write_image(image, format, 80, {"seed": 1}, tmp_path) for _ in range(2))
        assert first != second
        assert first.read_bytes() == second.read_bytes()

    def test_alpha_is_kept_or_goes_on_white(self, tmp_path):
        image = Image.new("RGBA", SIZE, (0, 0, 0, 0))
        assert Image.open(write_image(image, "png", 80, {}, tmp_path)).getpixel((0, 0))[3] == 0
        assert Image.open(write_image(image, "webp", 80, {}, tmp_path)).getpixel((0, 0))[3] == 0
        jpg = Image.open(write_image(image, "jpg", 80, {}, tmp_path))
        assert jpg.getpixel((0, 0)) == (255, 255, 255)

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize(
        ("failure", "seen"), [(OSError, UserError), (KeyboardInterrupt, KeyboardInterrupt)]
    )
    def test_nothing_is_left_after_a_failure(self, format, failure, seen, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise failure

        monkeypatch.setattr(Image.Image, "save", fail)
        with pytest.raises(seen):
            write_image(Image.new("RGB", SIZE), format, 80, {}, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_that_refuses_is_one_sentence_without_a_path(self, tmp_path, monkeypatch):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "secret"))

        monkeypatch.setattr(Image.Image, "save", full)
        with pytest.raises(UserError) as error:
            write_image(Image.new("RGB", SIZE), "png", 80, {}, tmp_path)
        assert str(error.value) == "the image cannot be written: the disk is full"
        with pytest.raises(UserError, match=r"^the image cannot be written: No such file or dir"):
            write_image(Image.new("RGB", SIZE), "png", 80, {}, tmp_path / "gone")

    def test_metadata_that_json_cannot_hold_leaves_nothing(self, tmp_path):
        with pytest.raises(TypeError):
            write_image(Image.new("RGB", SIZE), "png", 80, {"key": object()}, tmp_path)
        assert list(tmp_path.iterdir()) == []
