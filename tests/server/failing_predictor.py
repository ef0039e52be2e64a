"""DreamRender whose setup fails."""

from dream_o.errors import SettingError
from predict import DreamRenderPredictor


class FailingPredictor(DreamRenderPredictor):
    """Refuses a setting, as DreamRender does before it loads a model."""

    def setup(self) -> None:
        """Raises SettingError."""
        raise SettingError("DREAM_RENDER_PROMPT_MODEL", "no-such-one", "is not a prompt model")
