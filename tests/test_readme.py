"""What the README and the pages tell people to type, as far as it runs without Docker and a hub."""

import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dream_o.cli.main import main
from examples.draw import draw_references
from tests import ROOT, tracked

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    ROOT / name
    for name in tracked()
    if re.fullmatch(r"([^/]+|docs/.+|examples/[^/]+|weights/[^/]+)\.md", name)
)
# What a command of the README makes, and later commands or readers use.
MADE = r"output\.webp|[a-z-]+\.(webp|png)|weights/dream-o-v1\.1"


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", each.lower()).replace(" ", "-") for each in headings}


def test_the_readme_is_one_that_is_read():
    assert len(README.splitlines()) <= 150


def test_the_first_two_commands_are_the_first_image_and_the_test():
    first = blocks("sh")[0].strip().splitlines()
    assert first[0].startswith("script/predict ")
    assert first[1] == "script/test"


def test_the_python_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("weights", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    examples = blocks("python") + blocks("python", page)
    assert len(examples) == 2
    examples[0] = examples[0].replace("=768", "=256")
    for example, steps in zip(examples, ("num_inference_steps=8", "num_steps=8"), strict=True):
        assert steps in example
        quick = f"{steps[:-1]}1" + (", width=256, height=256" if steps == "num_steps=8" else "")
        exec(compile(example.replace(steps, quick), "README.md", "exec"), {})
    assert Image.open("mug-in-kitchen.png").size == (256, 256)
    assert Image.open("mug.webp").size == (256, 256)
    assert Image.open("references.png").width > Image.open("examples/mug.png").width


def test_every_file_that_a_command_of_the_readme_names_is_there():
    commands = "\n".join(blocks("sh"))
    named = set(re.findall(r"(?<![\w./:])@?([\w./-]+\.(?:png|webp|json|py)|script/\w+)", commands))
    named |= set(re.findall(r"weights/[\w.-]+", commands))
    assert {"script/predict", "examples/mug.png", "examples/save_output.py"} <= named
    missing = {name for name in named if not Path(ROOT, name).exists()}
    assert {name for name in missing if not re.fullmatch(MADE, name)} == set()


def test_every_command_that_a_page_names_exists():
    commands = "\n".join(
        line.partition("#")[0]
        for page in PAGES
        for block in blocks("sh", page.read_text(encoding="utf-8"))
        for line in block.splitlines()
    )
    named = re.findall(r"bin/dream-o ([a-z]+)(?: ([a-z][a-z-]*))?", commands)
    assert {("weights", "download"), ("weights", "fuse"), ("render", "form-api")} <= set(named)
    for words in set(named):
        with pytest.raises(SystemExit) as ended:
            main([*filter(None, words), "--help"])
        assert ended.value.code == 0, words
    modules = re.findall(r"python -m ([\w.]+)", commands)
    assert "training.miniature" in modules
    assert [name for name in modules if find_spec(name) is None] == []
    scripts = re.findall(r"\bscript/(\w+)", commands)
    assert [name for name in scripts if not (ROOT / "script" / name).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://)([^)]*)\)", text)
    links += re.findall(r'<img src="([^"]+)"', text)

    def leads_somewhere(link: str) -> bool:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        return target.exists() and (
            not anchor or anchor in anchors(target.read_text(encoding="utf-8"))
        )

    assert [link for link in links if not leads_somewhere(link)] == []


def test_every_row_of_what_it_has_names_tests():
    section = README.partition("## What it has")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert rows
    for row in rows:
        shown_by = re.findall(r"\]\((tests/[^)]+\.py)\)", row.rsplit(" | ", 1)[1])
        assert shown_by, row
        assert all("def test_" in (ROOT / file).read_text(encoding="utf-8") for file in shown_by)


def test_every_page_is_reached_from_the_readme():
    linked = {Path(ROOT, link.partition("#")[0]) for link in re.findall(r"\]\(([^)]+)\)", README)}
    docs = {page for page in PAGES if page.parent == ROOT / "docs"}
    assert len(docs) > 10
    assert docs - linked == set()


def test_every_variable_of_the_settings_is_documented():
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    assert "(docs/environment.md)" in README
    settings = (ROOT / "dream_o" / "service" / "settings.py").read_text(encoding="utf-8")
    variables = set(re.findall(r'"((?:DREAM_O|DREAM_RENDER)_\w+)"', settings))
    assert variables
    assert {name for name in variables if f"| `{name}` |" not in page} == set()


def test_the_example_references_are_what_the_code_draws_today():
    drawn = draw_references()
    assert {"mug.png", "ann.png", "sepia.png", "shirt.png"} <= set(drawn)
    for name, image in drawn.items():
        kept = Image.open(ROOT / "examples" / name)
        assert kept.mode == image.mode
        np.testing.assert_array_equal(np.asarray(kept), np.asarray(image))


def test_the_example_request_sends_the_example_image():
    body = json.loads((ROOT / "examples" / "requests" / "reference.json").read_text())
    sent = body["input"]["ref_image1"].removeprefix("data:image/png;base64,")
    assert b64decode(sent) == (ROOT / "examples" / "mug.png").read_bytes()


def test_the_examples_are_small():
    files = [*(ROOT / "examples" / name for name in draw_references())]
    files += (ROOT / "examples" / "requests").glob("*.json")
    assert sum(file.stat().st_size for file in files) < 300_000


def test_an_answer_is_saved_and_a_failure_is_told(tmp_path):
    def save(answer: dict[str, object]) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, str(ROOT / "examples" / "save_output.py")]
        return subprocess.run(
            [*script, "image.png"],
            input=json.dumps(answer),
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )

    made = save(
        {"status": "succeeded", "output": "data:image/png;base64,aGk=", "metrics": {"seed": 7}}
    )
    assert made.returncode == 0
    assert (tmp_path / "image.png").read_bytes() == b"hi"
    failed = save({"status": "failed", "error": "width: 1000 is not a multiple of 16"})
    assert failed.returncode == 1
    assert failed.stderr == "error: width: 1000 is not a multiple of 16\n"


def test_every_page_that_a_message_names_exists():
    pages = {
        page
        for path in (ROOT / "dream_o").rglob("*.py")
        for page in re.findall(r"docs/[\w-]+\.md", path.read_text(encoding="utf-8"))
    }
    assert pages
    assert [page for page in sorted(pages) if not (ROOT / page).is_file()] == []


def set_up(folder, importing="true"):
    """Runs script/setup in `folder` with a stand-in for Python.

    It copies itself into the environment, its installer only prints, and `import cv2` runs the
    shell command `importing`.
    """
    (folder / "script").mkdir()
    for file in ("script/setup", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, folder / file)
    python = folder / "python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '*"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;\n'
        '*"pip install"*) echo Collecting packages ;;\n'
        f'*"import cv2"*) {importing} ;;\n'
        "esac\n"
    )
    python.chmod(0o755)
    return subprocess.run(
        [folder / "script/setup"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )


def test_the_first_setup_says_how_much_it_installs_and_how_long_it_takes(tmp_path):
    """The first installation used to print nothing for minutes."""
    done = set_up(tmp_path)
    assert done.returncode == 0
    announced, *progress = done.stderr.splitlines()
    assert re.search(r"Installing .* 2 GB and 1 to 3 minutes", announced)
    assert "Collecting packages" in progress
    assert "2.0 GB, 1 to 3 minutes" in README


def test_setup_names_the_packages_that_opencv_needs(tmp_path):
    """On a machine with only Python, the first image used to end with a traceback."""
    missing = "ImportError: libGL.so.1: cannot open shared object file"
    done = set_up(tmp_path, f"echo Traceback; echo '{missing}'; exit 1")
    assert done.returncode == 1
    assert not list((tmp_path / ".venv").glob(".installed-*"))
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"error: OpenCV does not start ({missing})")
    assert "libgl1 libglib2.0-0" in error
    assert "libgl1 libglib2.0-0" in README


@pytest.mark.parametrize(
    ("tools", "error"),
    [
        ([], r"need git curl g\+\+; .*`apt-get install git curl g\+\+ python3-dev`.*"),
        (["git", "curl"], r"need g\+\+; .*`apt-get install .*"),
        (["git", "curl", "g++"], r"need a clone .*, made with git \(fatal: no repository\)"),
    ],
)
def test_the_tests_name_what_they_lack_before_anything_is_installed(tmp_path, tools, error):
    """They used to fail, after the installation and minutes of work."""
    (tmp_path / "script").mkdir()
    shutil.copy(ROOT / "script" / "test", tmp_path / "script" / "test")
    commands = tmp_path / "bin"
    commands.mkdir()
    for tool in ("bash", "dirname"):
        (commands / tool).symlink_to(shutil.which(tool))
    for tool in tools:
        (commands / tool).write_text("#!/bin/sh\necho fatal: no repository >&2\nexit 128\n")
        (commands / tool).chmod(0o755)
    done = subprocess.run(
        [commands / "bash", tmp_path / "script" / "test"],
        env={"PATH": str(commands)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.fullmatch(f"error: the tests {error}", done.stderr.strip())
    assert "`git curl g++ python3-dev` for the tests" in README


@pytest.mark.parametrize("page", ["README.md", "docs/dream-render.md"])
def test_the_commands_of_the_pages_are_those_of_the_environment(page):
    """A bare `python` has none of the packages."""
    lines = "".join(blocks("sh", (ROOT / page).read_text())).splitlines()
    assert len(lines) > 10
    assert not [line for line in lines if re.match(r"\s*(python3?|pip|dream-o)\s", line)]
