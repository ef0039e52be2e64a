"""The example notebook runs from its first cell to its last."""

import base64
import io
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from tests import ROOT

NOTEBOOK = ROOT / "examples" / "dream_o.ipynb"
PATIENCE_SECONDS = 600


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nbformat.NotebookNode]:
    """The notebook's cells by their ids, after they ran in the folder of the examples."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (settings,) = [cell for cell in notebook.cells if '"num_inference_steps": 8' in cell.source]
    for long, short in (('steps": 8', 'steps": 1'), ("768, ", "256, ")):
        assert settings.source.count(long) >= 1
        settings.source = settings.source.replace(long, short)
    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            patched.setenv(variable, str(tmp_path_factory.mktemp("jupyter")))
        NotebookClient(notebook, timeout=PATIENCE_SECONDS, resources=folder).execute()
    return {cell.id: cell for cell in notebook.cells}


def result(cell: nbformat.NotebookNode) -> dict[str, str]:
    """What the last line of a cell shows, by MIME type."""
    (shown,) = [each.data for each in cell.outputs if each.output_type == "execute_result"]
    return shown


def image_of(cell: nbformat.NotebookNode) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(result(cell)["image/png"])))


def test_it_shows_the_reference_and_every_image(executed):
    assert image_of(executed["reference"]).width > 2 * 384
    for name in ("several-sheet", "prompts"):
        sheet = image_of(executed[name])
        assert sheet.width > 2 * 384
        assert len(sheet.convert("RGB").getcolors(sheet.width * sheet.height)) > 500


def test_an_image_made_again_alone_is_the_same(executed):
    assert result(executed["again"])["text/plain"] == "True"
    assert "denoising" in result(executed["several"])["text/plain"]


def test_it_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    assert Path(NOTEBOOK).stat().st_size < 20_000
