"""A Hugging Face Space of the page: the Space starts this file."""

import sys

from dream_o.page.main import main

# A Space is reached through its own proxy, so the page listens on every address of the container.
sys.exit(main(["--host", "0.0.0.0", "--port", "7860", "--no-browser", *sys.argv[1:]]))  # noqa: S104
