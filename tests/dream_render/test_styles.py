"""Style presets: the data file, and their words around a prompt."""

import pytest

from dream_o.dream_render.styles import PLACEHOLDER, apply_style, known_styles, parse_styles
from dream_o.errors import InputError

USUAL = {
    "photographic",
    "cinematic",
    "anime",
    "digital-art",
    "comic-book",
    "fantasy-art",
    "line-art",
    "analog-film",
    "neon-punk",
    "isometric",
    "low-poly",
    "origami",
    "modeling-compound",
    "3d-model",
    "pixel-art",
    "tile-texture",
}


def test_there_are_about_thirty_with_the_usual_names() -> None:
    assert 28 <= len(known_styles()) <= 40
    assert set(known_styles()) >= USUAL


@pytest.mark.parametrize("name", known_styles())
def test_a_preset_holds_the_prompt_once(name: str) -> None:
    style = known_styles()[name]
    assert style.prompt.count(PLACEHOLDER) == 1
    assert "{" not in style.prompt.replace(PLACEHOLDER, "")
    prompt, negative = apply_style(style, "a {prompt} {0}", "blur, ")
    assert "a {prompt} {0}" in prompt
    assert prompt != "a {prompt} {0}"
    assert negative.startswith("blur, ")
    assert ", ," not in negative


@pytest.mark.parametrize("text", ["None", "none", "", " None , ", ","])
def test_no_style(text: str) -> None:
    assert parse_styles(text) == []


def test_several_are_applied_in_order() -> None:
    styles = known_styles()
    assert parse_styles("anime, origami") == [styles["anime"], styles["origami"]]
    assert parse_styles("origami,None,anime") == [styles["origami"], styles["anime"]]


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("annime", "anime"),
        ("pixel", "pixel-art"),
        ("anime, comicbook", "comic-book"),
        ("Nonne", "None"),
    ],
)
def test_an_unknown_one_is_refused_with_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(InputError) as error:
        parse_styles(text)
    sentence = str(error.value)
    assert sentence.startswith(f"styles: {text.split(', ')[-1]!r} is not known")
    assert nearest in sentence.partition("nearest are ")[2].partition(";")[0].split(", ")
    assert "dream-o render styles" in sentence
