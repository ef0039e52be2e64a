"""How designer, enhancement and styles go together: the final prompts."""

from typing import Any

from dream_o.dream_render.prompts import DESIGNER_NEGATIVE, DESIGNER_PROMPT, Prompts, final_prompts
from dream_o.dream_render.styles import apply_style, known_styles
from tests.dream_render.conftest import small

ADDITION = "sharp focus, soft light"
ANIME = known_styles()["anime"]
ORIGAMI = known_styles()["origami"]


def finals(**changes: Any) -> Prompts:
    return final_prompts(small(**changes), lambda prompt: f"{prompt}, {ADDITION}")


def never(prompt: str) -> str:
    raise AssertionError("no token may be generated")


def test_without_any_of_them_the_prompts_are_the_users() -> None:
    plain = small(enhance_prompt=False, negative_prompt="blur")
    assert final_prompts(plain, never) == Prompts("shoe", "blur")


def test_styles_are_applied_whatever_enhance_prompt_says() -> None:
    assert finals(styles="anime", enhance_prompt=False) == Prompts(*apply_style(ANIME, "shoe", ""))
    assert finals(styles="anime", enhance_prompt=True) == Prompts(
        *apply_style(ANIME, f"shoe, {ADDITION}", "")
    )


def test_styles_are_applied_with_the_designer_too() -> None:
    assert finals(styles="anime", designer=True) == Prompts(
        *apply_style(ANIME, f"shoe, {DESIGNER_PROMPT}", DESIGNER_NEGATIVE)
    )


def test_several_styles_are_applied_in_order() -> None:
    once = apply_style(ANIME, "shoe", "blur")
    assert finals(styles="anime, origami", enhance_prompt=False, negative_prompt="blur") == Prompts(
        *apply_style(ORIGAMI, *once)
    )


def test_the_designer_wins_over_enhance_prompt() -> None:
    with_both = final_prompts(small(designer=True, enhance_prompt=True), never)
    assert with_both == final_prompts(small(designer=True, enhance_prompt=False), never)
    assert with_both.positive == f"shoe, {DESIGNER_PROMPT}"
    for wanted in ("isolated", "centred", "plain", "product photography"):
        assert wanted in with_both.positive


def test_the_designers_negative_goes_behind_the_users() -> None:
    assert finals(designer=True, negative_prompt="blur").negative == f"blur, {DESIGNER_NEGATIVE}"
    assert finals(designer=True).negative == DESIGNER_NEGATIVE


def test_enhancement_adds_no_style() -> None:
    enhanced = finals(enhance_prompt=True, styles="None", negative_prompt="blur")
    assert enhanced == Prompts(f"shoe, {ADDITION}", "blur")
