"""`python -m dream_o`: the same as `dream-o`."""

import sys

from dream_o.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
