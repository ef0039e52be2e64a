"""Imports what most commands use, for processes that are then copied: see tests/forked.py."""

from importlib import import_module

from dream_o.importing import without_collections

with without_collections():
    for name in (
        "dream_o.cli.predict",
        "dream_o.service.generator",
        "dream_o.weights.build.quantize",
        "diffusers.models.transformers.transformer_flux",
        "transformers.models.t5.modeling_t5",
        "transformers.models.clip.modeling_clip",
    ):
        import_module(name)
