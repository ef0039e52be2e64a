"""What of a continuation is added to a prompt, and how."""

import pytest

from dream_o.dream_render.phrases import join, new_phrases


@pytest.mark.parametrize(
    ("prompt", "continuation", "phrases"),
    [
        ("shoe", " soft light, sharp focus", ["soft light", "sharp focus"]),
        ("shoe, soft light", "Soft  Light, sharp focus", ["sharp focus"]),
        ("shoe", "one\ntwo,\tthree\r\nfour", ["one two", "three four"]),
        ("shoe", "a,, a, !!!, 7, \x00b\ufffd.", ["a", "b"]),
        ("one two three", "four, one two three", ["four"]),
        ("cat", "very soft grey light, on very soft grey fur", ["very soft grey light"]),
        ("cat", "a b c a b c", []),
        ("cat", "", []),
    ],
)
def test_new_phrases(prompt: str, continuation: str, phrases: list[str]) -> None:
    assert new_phrases(prompt, continuation) == phrases


@pytest.mark.parametrize(
    ("prompt", "joined"),
    [
        ("shoe", "shoe, new"),
        ("shoe,", "shoe, new"),
        ("shoe, ", "shoe, new"),
        (" A  Shoe!? ", " A  Shoe!? , new"),
    ],
)
def test_the_prompt_keeps_every_character(prompt: str, joined: str) -> None:
    assert join(prompt, "new") == joined
    assert joined.startswith(prompt)
