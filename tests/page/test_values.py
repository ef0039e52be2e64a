import json

import pytest
from PIL import Image, PngImagePlugin

from dream_o.errors import InputError, UserError
from dream_o.images.writing import write_image
from dream_o.page.values import DREAM_O, DREAM_RENDER, checked, request_of, restore
from dream_o.service.request import Reference

MADE = {
    "prompt": "a hill",
    "width": 768,
    "height": 1024,
    "num_steps": 9,
    "guidance": 4.5,
    "seed": 2**64 - 1,
    "ref_task1": "id",
    "model": "DreamO v1.1",
    "output_format": "png",
}


@pytest.fixture
def saved(tmp_path):
    """Writes metadata into an image."""

    def save(metadata, output_format="webp"):
        return write_image(Image.new("RGB", (32, 32)), output_format, 90, metadata, tmp_path)

    return save


def test_a_form_gives_the_inputs_of_the_schema():
    values = checked({"prompt": "a hill", "width": 768.0, "seed": "", "true_cfg": 2}, DREAM_O)
    request = request_of(values, {2: Reference("x", "id")})
    assert (request.prompt, request.width, request.height) == ("a hill", 768, 1024)
    assert (request.seed, request.true_cfg) == (None, 2.0)
    assert request.references == (Reference(None, "ip"), Reference("x", "id"))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("width", 512, "width: 512 is out of range; use 768 to 1024"),
        ("seed", "five", "seed: "),
        ("output_format", "gif", "output_format: 'gif' is not allowed"),
    ],
)
def test_what_the_schema_does_not_allow_is_refused_by_name(name, value, problem):
    with pytest.raises(InputError) as error:
        checked({"prompt": "a hill", name: value}, DREAM_O)
    assert str(error.value).startswith(problem)


def test_more_references_than_the_model_takes_are_refused():
    values = checked({"prompt": "a hill"}, DREAM_O)
    with pytest.raises(InputError, match="at most 9 references"):
        request_of(values, {10: Reference("x", "ip")})


@pytest.mark.parametrize("output_format", ["webp", "jpg", "png"])
def test_settings_come_back_from_an_image(saved, output_format):
    found = restore(saved(MADE, output_format))
    assert found.predictor == DREAM_O
    assert found.values == {name: MADE[name] for name in MADE if name != "model"}
    assert "References are never in an image" in " ".join(found.notes)


def test_settings_of_dream_render_come_back_for_its_form(saved):
    made = {"model": "miniature", "prompt": "a shoe", "width": 512, "height": 512, "seed": 4}
    found = restore(saved(made | {"final_prompt": "a shoe, 4k", "version": "DreamRender"}))
    assert found.predictor == DREAM_RENDER
    assert found.values == made


def test_unknown_settings_are_named(saved):
    found = restore(saved(MADE | {"sampler": "Euler a", "loras": {}, "ref_task7": "ip"}))
    assert found.notes[0] == "Not restored, because this version has no such input: sampler."


def test_settings_that_are_not_allowed_are_refused_by_name(saved):
    with pytest.raises(InputError, match=r"^num_steps: 99 is out of range"):
        restore(saved(MADE | {"num_steps": 99}))


def foreign_images(folder):
    plain = folder / "plain.png"
    Image.new("RGB", (32, 32)).save(plain)
    web_ui = folder / "web-ui.png"
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", "a hill\nSteps: 20, Sampler: Euler a, Seed: 5")
    Image.new("RGB", (32, 32)).save(web_ui, pnginfo=chunks)
    other = folder / "other.png"
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", json.dumps({"workflow": 1}))
    Image.new("RGB", (32, 32)).save(other, pnginfo=chunks)
    deep = folder / "deep.png"
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", "[" * 200_000)
    Image.new("RGB", (32, 32)).save(deep, pnginfo=chunks)
    text = folder / "text.png"
    text.write_text("no image")
    bomb = folder / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    return plain, web_ui, other, deep, text, bomb


def test_foreign_images_say_that_they_hold_no_settings(tmp_path):
    for path in foreign_images(tmp_path):
        with pytest.raises(UserError) as error:
            restore(path)
        assert str(path.parent) not in str(error.value)
        assert "image" in str(error.value)
