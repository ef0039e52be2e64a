"""What the README tells people to type, as far as it runs without Docker and a hub."""

import re
from pathlib import Path

from PIL import Image

from tests import ROOT
from tests.requests_table import picture

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_first_two_commands_are_the_first_picture_and_the_test():
    first = blocks("sh")[0].strip().splitlines()
    assert first[0].startswith("script/predict ")
    assert first[1] == "script/test"


def test_the_python_example_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    picture(size=(320, 240)).save("mug.png")
    for example in blocks("python"):
        exec(compile(example, "README.md", "exec"), {})
    assert Image.open("mug-in-kitchen.png").size == (768, 768)
    assert Image.open("mug.webp").size == (1024, 1024)
    assert Image.open("references.png").width > Image.open("mug.png").width


def test_every_file_that_the_readme_links_to_is_there():
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)
    assert links
    assert [link for link in links if not Path(ROOT, link).exists()] == []


def test_every_link_within_the_readme_leads_to_a_heading():
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}
    links = re.findall(r"\]\(#([^)]+)\)", README)
    assert links
    assert [link for link in links if link not in anchors] == []


def test_every_variable_of_the_settings_is_in_the_readme():
    settings = (ROOT / "dream_o" / "service" / "settings.py").read_text()
    variables = set(re.findall(r'"((?:DREAM_O|DREAM_RENDER)_\w+)"', settings))
    assert variables
    assert {name for name in variables if f"`{name}`" not in README} == set()
