"""Untrusted images in."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from dream_o.errors import InputError
from dream_o.images.opening import (
    content_hash,
    on_white,
    open_image,
)
from tests.fresh_process import run_fresh
from tests.gradients import SIZE, distance, encoded, gradient


def opened(data):
    return open_image(io.BytesIO(data), "ref_image1")


def problem(data):
    with pytest.raises(InputError) as caught:
        opened(data)
    assert str(caught.value).startswith("ref_image1: ")
    return caught.value.problem


def png_header(width, height):
    """A PNG that says it has this size and whose pixels are one empty chunk."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size)
    return start + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class TestFormats:
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
    def test_lossless_formats_keep_the_pixels(self, format):
        image = opened(encoded(Image.fromarray(gradient()), format))
        assert image.mode == "RGB"
        assert distance(image, gradient()) == 0

    @pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF"])
    def test_lossy_formats_are_read(self, format):
        image = opened(encoded(Image.fromarray(gradient()), format, quality=95))
        assert (image.mode, image.size) == ("RGB", SIZE)
        assert distance(image, gradient()) < 30

    @pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
    def test_first_frame_of_an_animation_or_of_several_pages(self, format):
        frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "blue", "lime")]
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        image = opened(data)
        assert image.mode == "RGB"
        assert distance(image, np.asarray(frames[0])) == 0

    @pytest.mark.parametrize("format", ["EPS", "PPM", "ICO", "PDF", "TGA", "PCX"])
    def test_formats_off_the_table_are_refused(self, format):
        assert "PNG, JPEG, WebP" in problem(encoded(Image.fromarray(gradient()), format))


class TestModes:
    def test_grey(self):
        grey = gradient()[..., 0]
        image = opened(encoded(Image.fromarray(grey)))
        assert distance(image, np.stack([grey] * 3, axis=2)) == 0

    def test_one_bit(self):
        bits = Image.fromarray(gradient()[..., 0]).convert("1")
        assert distance(opened(encoded(bits)), np.asarray(bits.convert("RGB"))) == 0

    @pytest.mark.parametrize("format", ["PNG", "TIFF"])
    def test_sixteen_bits_are_scaled_and_not_clipped(self, format):
        deep = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0])
        image = opened(encoded(Image.fromarray(deep.astype(np.uint16)), format))
        expected = np.rint(deep / 257).astype(np.uint8)
        assert distance(image.getchannel("R"), expected) <= 1

    @pytest.mark.parametrize("top", [200, 65535, 2**31 - 1])
    def test_thirty_two_bits_are_scaled_and_not_clipped(self, top):
        deep = np.linspace(0, top, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0])
        image = opened(encoded(Image.fromarray(deep.astype(np.int32)), "TIFF"))
        levels = np.asarray(image.getchannel("R"))
        assert levels.min() == 0
        assert levels.max() == (200 if top == 200 else 255)
        assert len(np.unique(levels)) > 190

    def test_floating_point_of_zero_to_one(self):
        values = np.linspace(0, 1, SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE[1], SIZE[0])
        values[0, 0] = np.nan
        levels = np.asarray(opened(encoded(Image.fromarray(values), "TIFF")).getchannel("R"))
        assert levels[0, 0] == 0
        assert abs(int(np.median(levels)) - 128) <= 1

    def test_cmyk(self):
        image = opened(encoded(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "TIFF"))
        assert image.mode == "RGB"
        assert distance(image, np.asarray(Image.new("RGB", SIZE, "red"))) <= 1

    def test_cmyk_jpeg(self):
        picture = Image.fromarray(gradient()).convert("CMYK")
        image = opened(encoded(picture, "JPEG", quality=100))
        assert distance(image, gradient()) < 30

    def test_palette(self):
        picture = Image.fromarray(gradient()).quantize(16)
        image = opened(encoded(picture))
        assert image.mode == "RGB"
        assert distance(image, np.asarray(picture.convert("RGB"))) == 0

    def test_palette_with_a_transparent_colour(self):
        picture = Image.new("P", SIZE, 0)
        picture.putpalette([255, 0, 0, 0, 0, 255])
        picture.paste(1, (0, 0, 24, 32))
        image = opened(encoded(picture, transparency=1))
        assert image.mode == "RGBA"
        assert image.getpixel((5, 5))[3] == 0
        assert image.getpixel((40, 5)) == (255, 0, 0, 255)

    def test_grey_with_alpha(self):
        picture = Image.merge("LA", [Image.new("L", SIZE, 90), Image.new("L", SIZE, 100)])
        assert opened(encoded(picture)).getpixel((3, 3)) == (90, 90, 90, 100)

    @pytest.mark.parametrize("depth", [np.uint8, np.uint16])
    def test_grey_with_a_transparent_level(self, depth):
        levels = np.full((SIZE[1], SIZE[0]), 200, depth)
        levels[:, :10] = 7
        image = opened(encoded(Image.fromarray(levels), transparency=7))
        assert image.mode == "RGBA"
        assert image.getpixel((3, 3))[3] == 0
        assert image.getpixel((30, 3))[3] == 255

    def test_opaque_alpha_is_dropped(self):
        picture = Image.fromarray(gradient()).convert("RGBA")
        image = opened(encoded(picture))
        assert image.mode == "RGB"
        assert distance(image, gradient()) == 0

    def test_transparency_is_kept_and_goes_on_white(self):
        image = opened(encoded(Image.new("RGBA", SIZE, (0, 0, 0, 51))))
        assert image.mode == "RGBA"
        assert on_white(image).getpixel((0, 0)) == (204, 204, 204)

    def test_on_white_leaves_an_opaque_image_alone(self):
        image = Image.fromarray(gradient())
        assert on_white(image) is image

    def test_what_the_file_said_of_itself_goes_no_further(self):
        said = PngImagePlugin.PngInfo()
        said.add_text("Author", "somebody")
        assert opened(encoded(Image.fromarray(gradient()), pnginfo=said)).info == {}


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_every_exif_orientation_comes_out_upright(self, orientation, format):
        upright = gradient()
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright),
            7: np.rot90(upright.transpose(1, 0, 2), 2),
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = Image.fromarray(np.ascontiguousarray(stored))
        options = {"quality": 100} if format in ("JPEG", "WEBP") else {}
        image = opened(encoded(picture, format, exif=exif, **options))
        assert image.size == SIZE
        assert np.abs(np.asarray(image).astype(int) - upright).mean() < 12

    def test_damaged_exif_is_ignored(self):
        data = encoded(Image.fromarray(gradient()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
        assert opened(data).size == SIZE


class TestProfiles:
    def test_srgb_profile_leaves_the_pixels(self):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        data = encoded(Image.fromarray(gradient()), icc_profile=profile)
        assert distance(opened(data), gradient()) == 0

    def test_damaged_profile_leaves_the_pixels(self):
        data = encoded(Image.fromarray(gradient()), icc_profile=b"not a profile" * 20)
        assert distance(opened(data), gradient()) == 0

    def test_another_profile_is_converted(self):
        # The same colours with red and green exchanged in the profile: its own tags, moved.
        profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
        profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
        named = bytes(profile).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
        image = opened(encoded(Image.new("RGB", SIZE, (250, 20, 20)), icc_profile=named))
        red, green, _ = image.getpixel((0, 0))
        assert green > 200 > 100 > red


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "empty"),
            (b"hello, I am a text", "not an image"),
            (b"\x89PNG\r\n\x1a\n", "not an image"),
            (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
            (b"<svg width='10' height='10'></svg>", "SVG"),
            (b"<!DOCTYPE html><html><body>Not found</body></html>", "HTML"),
            (b"%PDF-1.7 ...", "PDF"),
            (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        ],
    )
    def test_what_is_no_image(self, data, words):
        assert words in problem(data)

    def test_a_jpeg_with_hundreds_of_scans(self):
        data = encoded(Image.fromarray(gradient()), "JPEG", progressive=True)
        assert opened(data).mode == "RGB"
        start = data.rindex(b"\xff\xda")
        many = data[:start] + data[start:-2] * 200 + data[-2:]
        assert "at most 100 are allowed" in problem(many)

    @pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
    def test_a_file_that_is_cut_off(self, format):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        data = encoded(Image.fromarray(noise), format)
        for share in (0.02, 0.3, 0.6, 0.9):
            assert "send" in problem(data[: int(len(data) * share)])

    @pytest.mark.parametrize("size", [(15, 40), (40, 15), (1, 1)])
    def test_a_side_under_16_pixels(self, size):
        assert "at least 16" in problem(encoded(Image.new("RGB", size)))

    @pytest.mark.parametrize("size", [(16 * 20 + 1, 16), (20, 401)])
    def test_a_side_ratio_over_1_to_20(self, size):
        assert "20 times" in problem(encoded(Image.new("RGB", size)))

    def test_the_limits_themselves_are_allowed(self):
        assert opened(encoded(Image.new("RGB", (320, 16)))).size == (320, 16)
        assert opened(encoded(Image.new("RGB", (16, 16)))).size == (16, 16)

    @pytest.mark.parametrize("size", [(8001, 8001), (20000, 20000), (2**31 - 1, 2**31 - 1)])
    def test_over_64_megapixels_is_known_from_the_header(self, size):
        # No pixel follows the header: anything that decoded would call the file damaged.
        assert "more than 64 megapixels" in problem(png_header(*size))

    def test_a_file_by_its_path(self, tmp_path):
        path = tmp_path / "upload"
        path.write_bytes(encoded(Image.fromarray(gradient())))
        for source in (path, str(path)):
            assert distance(open_image(source, "ref_image1"), gradient()) == 0

    def test_what_is_not_a_plain_file_is_refused(self, tmp_path):
        for path in (tmp_path, tmp_path / "missing.png", Path("/dev/zero")):
            with pytest.raises(InputError) as caught:
                open_image(path, "ref_image2")
            assert str(path) not in str(caught.value)


BOMBS = """
import io, resource, sys, warnings
from PIL import Image
from dream_o.errors import InputError
from dream_o.images.opening import open_image
open_image(io.BytesIO(open(sys.argv[1], 'rb').read()), 'ref_image1')
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        with open(path, 'rb') as file:
            open_image(file, 'ref_image1')
        sys.exit(path + ' was opened')
    except InputError as error:
        assert 'more than 64 megapixels' in str(error), error
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bombs_of_every_format_take_no_memory(tmp_path):
    paths = [tmp_path / "small.png"]
    Image.new("RGB", SIZE).save(paths[0])
    bomb = Image.new("1", (9000, 9000))
    for format in ("PNG", "GIF", "TIFF", "BMP", "JPEG", "WEBP"):
        paths.append(tmp_path / f"bomb.{format}")
        # A packed image of one colour: small in the file, large in memory.
        plain = bomb if format in ("PNG", "TIFF", "BMP") else bomb.convert("L")
        plain.save(paths[-1], format, **({"method": 0} if format == "WEBP" else {}))
    assert int(run_fresh(BOMBS, *paths)) < 100


class TestContentHash:
    def test_the_image_counts_and_not_its_file(self):
        picture = Image.fromarray(gradient())
        hashes = {content_hash(opened(encoded(picture, f))) for f in ("PNG", "TIFF", "BMP")}
        assert len(hashes) == 1

    def test_another_pixel_size_or_mode_is_another_image(self):
        pixels = np.zeros((32, 48, 3), np.uint8)
        other = pixels.copy()
        other[5, 5, 2] = 1
        pictures = [
            Image.fromarray(pixels),
            Image.fromarray(other),
            Image.fromarray(pixels.reshape(48, 32, 3)),
            Image.fromarray(pixels).convert("RGBA"),
            Image.new("RGBA", (48, 32)),
        ]
        assert len({content_hash(each) for each in pictures}) == 5
