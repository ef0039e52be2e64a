"""A Hugging Face Space of the page: the Space starts this file."""

import sys
from pathlib import Path

# The package lies beside this file in a Space, and two folders above it in a clone.
here = Path(__file__).resolve().parent
sys.path.insert(0, str(here if (here / "dream_o").is_dir() else here.parents[1]))

from dream_o.page.main import main  # noqa: E402

# A Space is reached through its own proxy, so the page listens on every address of the container.
sys.exit(main(["--host", "0.0.0.0", "--port", "7860", "--no-browser", *sys.argv[1:]]))  # noqa: S104
