"""Asks a Cog server how it is, for the probes of Docker and Kubernetes.

python -m dream_o.server.health            # 0 if the server takes requests
python -m dream_o.server.health --alive    # 0 unless a restart is needed
"""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException

# Cog's states of a server that takes requests, now or after the one that it is working on.
SERVING = ("READY", "BUSY")
# States that last until a restart.
LOST = ("UNHEALTHY", "DEFUNCT", "SETUP_FAILED")
NO_ANSWER = "NO_ANSWER"
# Nothing listens: the server has not begun, or is ending.
NO_SERVER = "NO_SERVER"
# The Cog server itself waits 5 s for the predictor's health check.
ANSWER_SECONDS = 8.0


def health(address: str) -> str:
    """The state that the server at `address` (a URL) gives; NO_ANSWER or NO_SERVER without one."""
    # A proxy from the environment must not be used for a local server.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/health-check", timeout=ANSWER_SECONDS) as answer:
            return str(json.load(answer)["status"])
    except urllib.error.URLError as error:
        refused = isinstance(error.reason, ConnectionRefusedError)
        return NO_SERVER if refused else NO_ANSWER
    except (OSError, ValueError, KeyError, TypeError, HTTPException):
        return NO_ANSWER


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the state of the server at PORT of this machine; 0 if all is well."""
    arguments = sys.argv[1:] if argv is None else argv
    state = health(f"http://127.0.0.1:{os.environ.get('PORT', '5000')}")
    print(state)
    if "--alive" in arguments:
        return int(state in (*LOST, NO_ANSWER, NO_SERVER))
    return int(state not in SERVING)


if __name__ == "__main__":
    sys.exit(main())
