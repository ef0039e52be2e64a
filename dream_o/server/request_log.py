"""One line of JSON in the log for each request."""

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import coglet

from dream_o.errors import InputError
from dream_o.server.metrics import stage_seconds

logger = logging.getLogger("dream_o.requests")

# What of a request is in its line, where the predictor has it.
SHOWN = ("model", "width", "height", "num_steps", "steps")
PROMPTS = ("prompt", "neg_prompt", "negative_prompt")


class RequestLine:
    """What is known of a request that is being answered."""

    def __init__(self, request: object, prompts: bool, files: Sequence[object]) -> None:
        names = SHOWN + (PROMPTS if prompts else ())
        self.fields: dict[str, Any] = {
            name: getattr(request, name) for name in names if hasattr(request, name)
        }
        self.fields["bytes_in"] = sum(
            Path(file).stat().st_size
            for file in files
            if isinstance(file, os.PathLike) and Path(file).is_file()
        )

    def made(self, metrics: Mapping[str, Any], path: os.PathLike[str], encoding: float) -> None:
        """Adds the metrics of a result, and the file that was made of it."""
        self.fields["seed"] = metrics["seed"]
        self.fields["bytes_out"] = Path(path).stat().st_size
        self.fields["seconds"] = stage_seconds(metrics) | {"encoding": encoding}


@contextmanager
def logged_request(request: object, prompts: bool, *files: object) -> Iterator[RequestLine]:
    """Logs the outcome of the block as one line of JSON.

    The Cog server adds the prediction's ID to each line of its log. Outside Cog's worker nothing is
    logged.

    Args:
        request: the request; its size, steps and model are logged.
        prompts: whether its prompts are logged too.
        files: its uploads, whose sizes are logged; other values are ignored.
    """
    line = RequestLine(request, prompts, files)
    begun = time.perf_counter()
    outcome: dict[str, Any] = {"outcome": "failed"}
    try:
        yield line
        outcome = {"outcome": "succeeded"}
    except coglet.CancelationException:
        outcome = {"outcome": "canceled"}
        raise
    except InputError as error:
        outcome["input"] = error.name
        raise
    except Exception as error:
        outcome["error"] = type(error).__name__
        raise
    finally:
        if coglet.server.active:
            total = round(time.perf_counter() - begun, 4)
            log_entry(outcome | {"seconds_total": total} | line.fields)


def log_entry(fields: Mapping[str, Any]) -> None:
    """Logs one line of JSON, whose `event` is `request`."""
    logger.info("%s", json.dumps({"event": "request", **fields}))
