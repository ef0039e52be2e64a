"""The form's updates, without a browser."""

import pytest

from dream_o.errors import InputError
from dream_o.page.values import DREAM_O, restore, schema_of
from dream_o.service.request import Reference


@pytest.fixture
def form(desk):
    import gradio as gr

    from dream_o.page.compose import compose

    with gr.Blocks():
        return compose(desk)


def shown(form, updates):
    """The value or visibility that each component of the form gets, or "kept" without an update."""
    components = [*form.components, *form.outer]
    names = [
        *form.fields,
        *(f"ref_image{slot}" for slot in range(1, len(form.slots) + 1)),
        *(f"ref_task{slot}" for slot in range(1, len(form.slots) + 1)),
        "shape",
        "count",
        "more",
        *(f"slot {slot}" for slot in range(1, len(form.slots) + 1)),
    ]
    assert len(updates) == len(components) == len(names)
    values = [
        each.get("value", each.get("visible", "kept")) if isinstance(each, dict) else each
        for each in updates
    ]
    return dict(zip(names, values, strict=True))


def test_filling_the_form_replaces_all_its_values(form, hill):
    found = shown(form, form.filled({"prompt": "a hill"}, {2: Reference(hill, "style")}))
    defaults = {name: each.get("default") for name, each in schema_of(DREAM_O).items()}
    for name in ("width", "height", "num_steps", "guidance", "neg_prompt", "true_cfg", "ref_res"):
        assert found[name] == defaults[name], name
    assert (found["prompt"], found["seed"]) == ("a hill", "")
    assert (found["ref_image1"], found["ref_image3"]) == (None, None)
    assert found["ref_image2"]
    assert [found[f"ref_task{slot}"] for slot in (1, 2, 3)] == ["ip", "style", "ip"]


def test_another_size_than_the_choices_is_shown_as_exact(form):
    from dream_o.page.compose import EXACT

    assert shown(form, form.filled({"prompt": "x", "width": 1008}, {}))["shape"] == EXACT
    assert shown(form, form.filled({"prompt": "x"}, {}))["shape"] == "square"


def test_settings_without_references_keep_the_forms_references(form):
    found = shown(form, form.filled({"prompt": "a hill", "ref_task2": "id"}))
    assert {found[f"ref_image{slot}"] for slot in range(1, 10)} == {"kept"}
    assert (found["ref_task1"], found["ref_task2"], found["count"]) == ("kept", "id", "kept")


@pytest.mark.parametrize(("slots", "count"), [((), 2), ((1,), 2), ((1, 2, 5), 5), ((9,), 9)])
def test_adding_a_reference_shows_one_more_slot(form, hill, slots, count):
    references = {slot: Reference(hill, "ip") for slot in slots}
    found = shown(form, form.filled({"prompt": "a hill"}, references))
    assert found["count"] == count
    assert [slot for slot in range(1, 10) if found[f"slot {slot}"]] == [*range(1, count + 1)]
    assert found["more"] is (count < 9)
    further, more, *groups = form.show_slots(found["count"] + 1)
    assert further == min(count + 1, 9)
    assert sum(each["visible"] for each in groups) == further
    assert more["visible"] is (further < 9)


def test_filling_dream_renders_form_replaces_all_but_the_key(desk):
    import gradio as gr

    from dream_o.page.render_form import RenderForm

    with gr.Blocks():
        form = RenderForm(desk)
    updates = dict(zip(form.fields, form.filled({"prompt": "a shoe"}), strict=True))
    assert updates["prompt"]["value"] == "a shoe"
    assert (updates["cfg_scale"]["value"], updates["styles"]["value"]) == (7.0, [])
    assert updates["negative_prompt"]["value"] == ""
    assert "value" not in updates["dev_key"]


def test_an_example_fills_in_all_its_inputs(form, desk):
    from dream_o.page.examples import examples_of

    for miniature in (True, False):
        for row in examples_of(miniature):
            slots = enumerate(row.references, start=1)
            references = {slot: Reference(file, task) for slot, (file, task) in slots}
            found = shown(form, form.filled(row.inputs, references))
            assert "kept" not in found.values()
            assert sum(bool(found[f"ref_image{slot}"]) for slot in range(1, 10)) == len(references)


def test_the_settings_of_a_result_can_fill_the_form(desk, form, tmp_path):
    from PIL import Image

    from dream_o.images.writing import write_image

    made = {"prompt": "a hill", "seed": 3, "width": 768, "height": 1024, "ref_task1": "id"}
    file = write_image(Image.new("RGB", (32, 32)), "png", 90, made, tmp_path)
    found = shown(form, form.filled(restore(file).values))
    assert (found["shape"], found["seed"], found["ref_task1"]) == ("portrait", "3", "id")


def test_a_data_url_is_refused_with_the_name_of_its_slot(form):
    from gradio.data_classes import ImageData

    with pytest.raises(InputError, match=r"^ref_image3: send an upload, not a data URL$"):
        form.slots[2].image.preprocess(ImageData(url="data:image/png;base64,AA=="))


CFG = {"true_cfg": 2.0, "cfg_start_step": 0, "cfg_end_step": 4, "num_steps": 8}


@pytest.mark.parametrize("cleared", CFG)
def test_there_is_no_note_on_the_negative_prompt_while_a_number_is_cleared(cleared):
    from dream_o.page.compose import negative_note

    without_effect = CFG | {"true_cfg": 1.0}
    assert negative_note(neg_prompt="fog", **CFG) == ""
    assert "has no effect" in negative_note(neg_prompt="fog", **without_effect)
    assert negative_note(neg_prompt="fog", **without_effect | {cleared: None}) == ""
