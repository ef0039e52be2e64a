"""The form of the second tab: DreamRender, with its models and styles as choices."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from dream_o.dream_render.request import RenderRequest
from dream_o.dream_render.styles import NO_STYLE, known_styles
from dream_o.page.desk import Desk
from dream_o.page.fields import component, for_field, random_seed_js
from dream_o.page.values import DREAM_RENDER, checked, render_request_of, schema_of
from dream_o.sizes import VAE_SCALE

SHOWN = ("dev_key", "model", "prompt", "styles", "width", "height", "steps", "seed")
# A size that every model draws quickly; the schema has no default.
SIDE = 512


class RenderForm:
    """The components of DreamRender's inputs.

    Attributes:
        fields: a component for each input of the schema, by name.
    """

    def __init__(self, desk: Desk) -> None:
        """Lays out the form in the current tab."""
        if not (desk.render.dev_keys or desk.render.dev_key_hashes):
            gr.HTML(
                '<p class="note">No developer key is accepted: start the page with '
                "<code>DREAM_RENDER_DEV_KEYS=</code> and a key of your choice.</p>"
            )
        schema = schema_of(DREAM_RENDER)
        made: dict[str, Any] = {}
        for name in SHOWN[:4]:
            made[name] = self._component(name, desk)
        for pair in (("width", "height"), ("steps", "seed")):
            with gr.Row():
                for name in pair:
                    made[name] = self._component(name, desk)
        die = gr.Button("Roll the die", size="sm")
        self.go = gr.Button("Generate", variant="primary", elem_id="render")
        with gr.Accordion("Advanced", open=False):
            for name in schema:
                if name not in made:
                    made[name] = self._component(name, desk)
        self.fields = {name: made[name] for name in schema}
        die.click(None, None, made["seed"], js=random_seed_js(), api_visibility="private")

    @property
    def components(self) -> list[Any]:
        """All components, in the order that `read` takes their values."""
        return list(self.fields.values())

    def read(self, values: Sequence[Any]) -> tuple[dict[str, Any], RenderRequest]:
        """The inputs that the schema allows, and the request, of the components' values.

        Raises:
            InputError: a value is not allowed.
        """
        inputs = checked(dict(zip(self.fields, values, strict=True)), DREAM_RENDER)
        return inputs, render_request_of(inputs)

    def filled(self, values: Mapping[str, Any]) -> list[Any]:
        """Updates of `components`: the form shows these inputs, and keeps the key.

        The inputs that are not named get the schema's default; those without one stay as they are.
        """
        schema = schema_of(DREAM_RENDER)
        defaults = {name: each["default"] for name, each in schema.items() if "default" in each}
        shown = defaults | dict(values)
        shown.pop("dev_key", None)
        if "styles" in shown:
            names = [each.strip() for each in str(shown["styles"]).split(",")]
            shown["styles"] = [name for name in names if name in known_styles()]
        return [
            gr.update(value=for_field(name, shown[name])) if name in shown else gr.skip()
            for name in self.fields
        ]

    @staticmethod
    def _component(name: str, desk: Desk) -> Any:
        schema = schema_of(DREAM_RENDER)
        info = schema[name].get("description")
        options = {"elem_id": f"render-{name}", "info": info}
        if name == "model":
            models = desk.render.registry.models
            choices = [
                (f"{each.name}: {each.summary}{'' if each.installed else ' (not downloaded)'}", key)
                for key, each in models.items()
            ]
            default = desk.render.registry.default
            return gr.Dropdown(choices, value=default, label="Model", **options)
        if name == "styles":
            names = [each for each in known_styles() if each != NO_STYLE]
            return gr.Dropdown(names, value=[], multiselect=True, label="Styles", **options)
        made = component(name, schema, VAE_SCALE, id_prefix="render")
        if name in ("width", "height"):
            made.value = SIDE
        return made
