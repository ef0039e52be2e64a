"""The updates while a request waits, runs and ends, without a browser."""

import pytest
from PIL import Image

from dream_o.errors import InputError, UserError
from dream_o.service.request import Reference, Request
from dream_o.service.result import Result

KEY, TAB = "0" * 32, "a tab"
OUTPUT = {"output_format": "png", "output_quality": 90}


@pytest.fixture
def studio(desk):
    import gradio as gr

    from dream_o.page.studio import Studio

    with gr.Blocks():
        studio = Studio(desk, gr.BrowserState(""))
        studio.lay_out(4)
    return studio


@pytest.fixture
def drawn(desk, monkeypatch):
    """Answers requests at once; the list has the contents of their references."""
    seen = []

    def generate(request, on_step=None):
        seen.append([each.image.read_bytes() for each in request.references if each.image])
        return Result(Image.new("RGB", (32, 32)), {"prompt": "a hill", "seed": request.seed}, {})

    monkeypatch.setattr(desk.dream_o, "generate", generate)
    return seen


def jobs(desk, *seeds, references=()):
    requests = [Request("a hill", references, num_steps=8, seed=seed) for seed in seeds]
    return lambda: (OUTPUT, [desk.job(each) for each in requests])


def add(desk, count):
    image = Image.new("RGB", (32, 32))
    for seed in range(count):
        desk.outputs.add(KEY, Result(image, {"prompt": "a hill", "seed": seed}, {}), "png", 90)


def after(studio, updates):
    """The values that a browser shows after these updates."""
    state = {}
    for update in updates:
        assert set(update) <= {*studio.shown, *studio.listed}
        state |= update
    return state


def test_the_buttons_are_hidden_unless_an_image_is_shown(studio, desk, drawn):
    add(desk, 1)
    old = desk.outputs.names(KEY)[0]
    shown = studio.show(KEY, old)
    assert (shown[studio.selected], shown[studio.actions]["visible"]) == (old, True)
    assert old in shown[studio.stage]
    for update in studio.run(KEY, jobs(desk, 5), TAB):
        # Each update of the stage also sets `selected`.
        assert (studio.stage in update) == (studio.selected in update) == (studio.actions in update)
        shown |= update
        selected = shown[studio.selected]
        assert shown[studio.actions]["visible"] is bool(selected)
        assert selected in shown[studio.stage]
    assert selected.endswith("-5.png")


def test_an_older_image_can_be_opened_while_another_is_made(studio, desk, drawn):
    add(desk, 1)
    old = desk.outputs.names(KEY)[0]
    run = studio.run(KEY, jobs(desk, 5), TAB)
    shown = next(run) | studio.show(KEY, old)
    shown |= next(run)  # progress
    assert "<progress" in shown[studio.watch]
    assert old in shown[studio.stage]
    assert shown[studio.selected] == old


def test_images_side_by_side_have_no_buttons_for_a_single_image(studio, desk, drawn):
    shown = after(studio, studio.run(KEY, jobs(desk, 5, 6), TAB))
    assert shown[studio.watch].count("data-pick") == 2
    assert (shown[studio.selected], shown[studio.actions]["visible"]) == ("", False)
    assert shown[studio.cancel]["interactive"] is False


def test_a_request_can_be_cancelled_immediately_after_the_click(studio):
    assert studio.wait()[studio.cancel]["interactive"] is True
    for ended in (studio.left_queue(), studio.not_accepted()):
        assert ended[studio.cancel]["interactive"] is False
        assert 'role="alert"' in ended[studio.watch]


def test_a_request_that_is_cancelled_while_it_is_prepared_does_not_begin(studio, desk, drawn):
    run = studio.run(KEY, jobs(desk, 5), TAB)
    next(run)
    desk.runs.cancel(TAB)
    assert "cancelled; " in after(studio, run)[studio.watch]
    assert drawn == []
    assert not desk.runs.has(TAB)


def test_a_refusal_is_shown_and_the_old_image_has_no_buttons(studio):
    def refuse():
        raise InputError("prompt", "is empty")

    shown = after(studio, studio.run(KEY, refuse, TAB))
    assert "prompt: is empty" in shown[studio.watch]
    assert (shown[studio.selected], shown[studio.actions]["visible"]) == ("", False)


def test_references_stay_until_the_request_has_ended(studio, desk, drawn, hill):
    """Even if the upload, or the result from which it was taken, is deleted meanwhile."""
    content = hill.read_bytes()
    references = (Reference(hill, "ip"), Reference(None, "ip"))
    run = studio.run(KEY, jobs(desk, 5, 6, references=references), TAB)
    next(run)
    next(run)  # the first request has begun
    hill.unlink()
    after(studio, run)
    assert drawn == [[content], [content]]
    for name in desk.outputs.names(KEY):
        assert desk.outputs.entry(KEY, name).references[1].image.read_bytes() == content


@pytest.mark.parametrize("end", ["close", "cancel", "fail", "finish"])
def test_copies_of_references_are_deleted_when_the_request_ends(
    studio, desk, drawn, hill, end, monkeypatch, tmp_path
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    if end == "fail":
        monkeypatch.setattr(desk.outputs, "add", lambda *_: 1 / 0)
    run = studio.run(KEY, jobs(desk, 5, references=(Reference(hill, "ip"),)), TAB)
    next(run)
    next(run)
    assert [file.name for file in (tmp_path / "uploads").rglob("*.*")] == ["1.png"]
    if end == "cancel":
        desk.runs.cancel(TAB)
    run.close() if end == "close" else list(run)
    assert list((tmp_path / "uploads").iterdir()) == []
    assert hill.is_file()


def test_an_image_that_cannot_be_kept_counts_as_made_and_not_as_canceled(
    studio, desk, drawn, monkeypatch
):
    def full(*_):
        raise UserError("the image cannot be kept: the disk is full")

    monkeypatch.setattr(desk.outputs, "add", full)
    shown = after(studio, studio.run(KEY, jobs(desk, 5), TAB))
    assert "the disk is full" in shown[studio.watch]
    counted = desk.metrics.text().decode()
    assert 'outcome="succeeded"} 1.0' in counted
    assert 'outcome="canceled"} 1.0' not in counted


def test_a_reference_that_was_deleted_while_it_waited_is_named(studio, desk, drawn, hill):
    references = (Reference(None, "ip"), Reference(hill, "ip"))
    hill.unlink()
    shown = after(studio, studio.run(KEY, jobs(desk, 5, references=references), TAB))
    assert "ref_image2: was deleted; add the image again" in shown[studio.watch]
    assert drawn == []


def test_every_image_can_be_reached(studio, desk):
    from dream_o.page.studio import SHOWN_RESULTS

    add(desk, 2 * SHOWN_RESULTS + 1)
    names = desk.outputs.names(KEY)
    for count, older in ((1, 61), (2, 1), (3, 0)):
        listed = studio.listing(KEY, count * SHOWN_RESULTS, names[0])
        shown = names[: count * SHOWN_RESULTS]
        assert listed[studio.gallery].count("data-pick") == len(shown)
        assert shown[-1] in listed[studio.gallery]
        assert listed[studio.gallery].count('aria-pressed="true"') == 1
        assert listed[studio.more]["visible"] is (older > 0)
        assert listed[studio.more]["value"] == f"Show more ({older} older)"


def test_a_browser_without_a_key_has_no_gallery(studio):
    assert set(studio.listing("", 60)) == {studio.gallery}
