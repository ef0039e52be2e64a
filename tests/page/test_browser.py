"""What users do on the page, in a real Chromium, with the miniature and one server."""

import re
import time
from pathlib import Path

import pytest
from PIL import Image

from dream_o.dream_render.generator import DreamRender
from dream_o.images.writing import read_metadata
from dream_o.page.desk import Desk
from dream_o.paths import EMBEDDED_BUNDLE
from dream_o.service.generator import DreamO
from dream_o.service.result import Result
from tests.page.conftest import SETTINGS
from tests.page.served import KEY, Served

pytestmark = pytest.mark.browser

EXAMPLES = Path(__file__).parents[2] / "examples"
PROMPT = "#input-prompt textarea"
SEED = "#input-seed textarea, #input-seed input"
RESULT = "#stage .result img"
RENDER_TAB = "button[role=tab]:has-text('DreamRender')"
# The fewest steps that the schema allows.
STEPS = "#input-num_steps input[type=number]"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    dream_o = DreamO.load(SETTINGS, EMBEDDED_BUNDLE)
    dream_o.pipeline.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp("page")
    with Served(Desk.of(dream_o, DreamRender.load(SETTINGS), folder)) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    from tests.page.chromium import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser, site):
    """Opens the page as a new user. The scripts must not fail or contact another host."""
    from tests.page.chromium import Visit

    visits = []

    def come(**options):
        visits.append(Visit(browser, site.url, **options))
        return visits[-1]

    yield come
    for each in visits:
        assert each.errors == []
        assert each.hosts == {site.url.removeprefix("http://")}
        each.context.close()


def compose(user, prompt, seed="7"):
    user.page.fill(PROMPT, prompt)
    user.page.fill(SEED, seed)
    user.page.fill(STEPS, "8")
    user.page.press(STEPS, "Tab")


def wait_for_images(user, count):
    """Waits until the gallery has `count` images."""
    found = f"document.querySelectorAll('#gallery .thumb').length === {count}"
    user.page.wait_for_function(found)


def test_from_a_prompt_to_an_image_that_is_kept_and_used_again(visit):
    user = visit()
    page = user.page
    assert "a toy model" in page.inner_text(".banner")
    compose(user, "a red zebra on the beach")
    assert page.inner_text("#unknown-words u") == "zebra"
    compose(user, "this mug on the beach")
    page.wait_for_selector("#unknown-words u", state="detached")

    page.set_input_files("#reference-1 input[type=file]", EXAMPLES / "mug.png")
    assert "as the model sees it" in page.inner_text("#seen-1 figcaption")

    page.press(PROMPT, "Control+Enter")
    page.wait_for_selector("#watch img.preview")
    assert re.search(r"step \d of 8, about \d+ s left", page.inner_text("#watch .watch"))
    page.wait_for_selector(RESULT)
    assert page.eval_on_selector(RESULT, "image => image.naturalWidth") == 768
    wait_for_images(user, 1)

    with page.expect_download() as download:
        page.click("#stage a.download")
    made = read_metadata(download.value.path())
    assert (made["prompt"], made["seed"], made["num_steps"]) == ("this mug on the beach", 7, 8)

    # If an older image is opened while another is made, the buttons act on the older one.
    page.click("#generate")
    page.wait_for_selector("#watch img.preview")
    assert page.locator(RESULT).count() == 0
    assert not page.is_visible("#actions")
    page.click("#gallery .thumb")
    page.wait_for_selector(RESULT)
    page.wait_for_selector("#watch progress")
    page.click("#cancel")
    page.wait_for_selector("#watch .problem")
    assert page.is_visible(RESULT)

    # After a reload, the image and its reference are still there.
    page.reload()
    page.click("#gallery .thumb")
    page.wait_for_selector(RESULT)
    assert user.value(PROMPT) == ""
    page.click("#use-settings")
    page.wait_for_selector("#seen-1 .prepared")
    assert (user.value(PROMPT), user.value(SEED)) == ("this mug on the beach", "7")

    page.click("#use-reference")
    page.wait_for_selector("#seen-2 .prepared")

    page.click("#vary")
    page.wait_for_selector("#watch .watch .thumb")  # the first of four is done
    assert "image 2 of 4" in page.inner_text("#watch .watch")
    page.click("#cancel")
    page.wait_for_selector("#watch .problem")
    assert page.inner_text("#watch .problem").startswith("cancelled; ")
    wait_for_images(user, 2)

    page.click("#gallery .thumb >> nth=0")
    page.click("#stage summary")
    assert "8" in page.inner_text("#stage dl")
    page.click("#delete")
    page.click("#sure")
    wait_for_images(user, 1)


def test_cancelling_ends_within_a_step_and_the_next_image_is_made(visit, site):
    user = visit()
    compose(user, "a blue fish")
    user.page.click("#generate")
    user.page.wait_for_selector("#watch img.preview")
    user.page.click("#cancel")
    user.page.wait_for_selector("#watch .problem")
    assert user.page.locator("#gallery .thumb").count() == 0
    begun = time.monotonic()
    site.desk.dream_o.thread.call(lambda: None)
    assert time.monotonic() - begun < 5
    user.page.click("#generate")
    user.page.wait_for_selector("#watch img.preview")
    user.page.click("#cancel")


def test_a_reference_that_cannot_be_used_says_why(visit, tmp_path):
    user = visit()
    fake = tmp_path / "photo.png"
    fake.write_text("<!doctype html><p>not an image")
    user.page.set_input_files("#reference-2 input[type=file]", fake)
    shown = user.page.inner_text("#seen-2 .problem")
    assert shown.startswith("ref_image2: this is an HTML page")
    user.page.set_input_files("#reference-1 input[type=file]", EXAMPLES / "mug.png")
    user.page.wait_for_selector("#seen-1 .prepared")
    user.page.check("#task-1 input[value=id]")
    shown = user.page.inner_text("#seen-1 .problem")
    assert shown.startswith("ref_image1: no face found; use ref_task1=ip or style")


def test_an_image_that_is_dropped_on_the_page_restores_its_settings(visit, tmp_path):
    from dream_o.images.writing import write_image

    user = visit()
    made = {"prompt": "a green house", "seed": 2**64 - 1, "num_steps": 9, "width": 1024}
    made |= {"height": 768, "model": "DreamO", "sampler": "x"}
    image = write_image(Image.new("RGB", (32, 32)), "png", 90, made, tmp_path)
    user.drop("h1", image)
    user.page.wait_for_selector("#note .note")
    assert "no such input: sampler" in user.page.inner_text("#note")
    assert user.value(PROMPT) == "a green house"
    assert user.value(SEED) == str(2**64 - 1)
    assert user.value(STEPS) == "9"
    assert user.page.is_checked("#shape input[value=landscape]")

    foreign = tmp_path / "foreign.png"
    Image.new("RGB", (32, 32)).save(foreign)
    user.drop("h1", foreign)
    user.page.wait_for_selector("#note .problem")
    assert "no metadata of this project" in user.page.inner_text("#note")
    assert "drop it on a reference's field" in user.page.inner_text("#note")
    assert user.value(PROMPT) == "a green house"


def test_dropping_a_file_beside_a_field_does_not_leave_the_page(visit, tmp_path):
    from dream_o.images.writing import write_image

    user = visit()
    user.page.set_input_files("#reference-1 input[type=file]", EXAMPLES / "mug.png")
    user.page.wait_for_selector("#seen-1 .prepared")
    kept = {"dragover": True, "drop": True}
    for seed, target in enumerate(("#task-1", "#add-reference", PROMPT)):
        made = {"prompt": f"a house, {seed}", "seed": seed}
        image = write_image(Image.new("RGB", (32, 32)), "png", 90, made, tmp_path)
        assert user.drop(target, image) == kept, target
        user.page.wait_for_function(f"document.querySelector({SEED!r}).value === '{seed}'")
        assert user.value(PROMPT) == f"a house, {seed}"
    notes = tmp_path / "notes.txt"
    notes.write_text("no image")
    assert user.drop("#task-1", notes, "text/plain") == kept
    user.page.wait_for_selector("text=/Invalid file type/")
    # A file that is dropped on the field itself becomes a reference.
    assert user.drop("#reference-2 [data-testid=upload-text]", EXAMPLES / "ann.png") == kept
    user.page.wait_for_selector("#seen-2 .prepared")
    assert user.value(PROMPT) == "a house, 2"


def test_an_example_fills_the_form(visit):
    user = visit()
    rows = user.page.locator("#examples .example")
    assert rows.count() == 5
    assert user.page.locator("#examples img[alt=result]").count() == 5
    rows.last.click()
    user.page.wait_for_selector("#seen-1 .prepared")
    user.page.wait_for_selector("#seen-2 .prepared")
    assert user.value(PROMPT) == "[ref#1] with [ref#2] in the snow"
    assert user.page.is_checked("#task-1 input[value=id]")
    assert user.page.is_checked("#task-2 input[value=ip]")
    user.page.click("#add-reference")
    user.page.wait_for_selector("#reference-3")
    user.page.fill(SEED, "99")
    rows.first.click()
    user.page.wait_for_selector("#seen-1 .prepared", state="detached")
    user.page.wait_for_selector("#reference-3", state="hidden")
    assert user.value(SEED) == "7"
    user.page.click("#add-reference")
    user.page.wait_for_selector("#reference-3")


def test_the_form_says_what_it_takes(visit):
    user = visit()
    page = user.page
    page.click("#add-reference")
    page.wait_for_selector("#reference-3")
    page.check("#shape input[value=exact]")
    page.wait_for_selector("#input-width")
    page.click("#advanced button")
    assert "Resolution for non-ID reference" in page.inner_text("#input-ref_res")
    page.fill("#input-neg_prompt textarea", "fog")
    page.wait_for_selector("#negative-note .note")
    assert page.inner_text("#unknown-negative-words u") == "fog"
    page.click("#die")
    page.wait_for_function(
        "document.querySelector('#input-seed textarea, #input-seed input').value"
    )
    assert user.value(SEED).isdigit()


def test_two_users_at_once_wait_for_each_other_and_see_their_own(visit):
    first, second = visit(), visit()
    compose(first, "a red heart", "3")
    compose(second, "a blue star", "4")
    first.page.click("#generate")
    first.page.wait_for_selector("#watch progress")
    second.page.click("#generate")
    second.page.wait_for_selector("text=/queue: 1\\/1/")
    # The second user cancels the waiting request, and sends it again.
    second.page.click("#cancel")
    second.page.wait_for_selector("#watch .problem")
    assert second.page.inner_text("#watch .problem").startswith("cancelled; ")
    assert not second.page.is_visible("text=/queue: /")
    assert first.page.is_visible("#watch progress")
    second.page.click("#generate")
    second.page.wait_for_selector("text=/queue: 1\\/1/")
    second.page.wait_for_selector(RESULT)
    first.page.wait_for_selector(RESULT)
    assert first.page.get_attribute(RESULT, "alt") == "a red heart"
    assert second.page.get_attribute(RESULT, "alt") == "a blue star"
    wait_for_images(first, 1)
    wait_for_images(second, 1)


def test_dream_render_draws_with_a_key(visit):
    user = visit()
    page = user.page
    page.click(RENDER_TAB)
    page.fill("#render-dev_key input", KEY)
    page.fill("#render-prompt textarea", "a red shoe")
    page.fill("#render-steps input[type=number]", "12")
    page.fill("#render-seed textarea, #render-seed input", "5")
    page.click("#render")
    page.wait_for_selector("#watch img.preview")
    page.wait_for_selector(RESULT)
    assert KEY not in page.content()


def test_on_a_phone_everything_is_within_its_width(visit):
    user = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = user.page
    wide = page.evaluate(
        "[...document.querySelectorAll('.gradio-container *')].filter(each => "
        "each.offsetParent && each.getBoundingClientRect().right > innerWidth + 1)"
        ".map(each => each.tagName + ' ' + each.className).slice(0, 5)"
    )
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.tap("#examples .example >> nth=0")
    page.wait_for_function("document.querySelector('#input-prompt textarea').value")


@pytest.fixture(scope="module")
def made(site):
    """The key of a browser that has one image."""
    key = "5" * 32
    settings = {"prompt": "a red heart", "seed": 5, "num_steps": 8, "width": 768}
    site.desk.outputs.add(key, Result(Image.new("RGB", (96, 96), "teal"), settings, {}), "png", 90)
    return key


def serious_violations(page):
    """The violations on the shown page that axe-core calls serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        (each["id"], [node["html"][:200] for node in each["nodes"]][:3])
        for each in Axe().run(page).response["violations"]
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(visit, scheme, made, monkeypatch):
    # The browser gets the key of another one that has an image.
    monkeypatch.setattr("dream_o.page.events.secrets.token_hex", lambda _: made)
    user = visit(color_scheme=scheme)
    page = user.page
    page.click("#advanced button")
    page.click("#examples .example >> nth=1")
    page.wait_for_selector("#seen-1 .prepared")
    assert serious_violations(page) == []
    page.click("#gallery .thumb")
    page.click("#stage summary")
    page.wait_for_selector("#stage dl")
    page.click("#delete")
    page.wait_for_selector("#sure")
    page.click(RENDER_TAB)
    page.wait_for_selector("#render-prompt")
    assert serious_violations(page) == []
