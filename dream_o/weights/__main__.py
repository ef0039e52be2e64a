"""`python -m dream_o.weights`: the same as `dream-o weights`."""

import sys

from dream_o.cli.weights import main

if __name__ == "__main__":
    sys.exit(main())
