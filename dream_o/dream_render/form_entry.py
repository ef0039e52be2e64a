"""What the form endpoint's log says about one request."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dream_o.server.metrics import stage_seconds
from dream_o.server.request_log import PROMPTS, SHOWN


@dataclass
class FormEntry:
    """A request, as far as it has come.

    Attributes:
        declared: its Content-Length header.
        id: its ID here and at the Cog server.
        begun: `time.monotonic()` at its arrival.
        inputs: its checked inputs.
        prediction: the Cog server's answer.
        image_bytes: the size of the image.
    """

    declared: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    begun: float = field(default_factory=time.monotonic)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    prediction: Mapping[str, Any] = field(default_factory=dict)
    image_bytes: int = 0

    def fields(self, status: int, seconds: float, prompts: bool) -> dict[str, Any]:
        """The fields of its line: checked values only, and never a key.

        Args:
            status: the answer's status code.
            seconds: from its arrival to the answer.
            prompts: whether its prompts are among them.
        """
        names = SHOWN + (PROMPTS if prompts else ())
        metrics = self.prediction.get("metrics") or {}
        fields = {"id": self.id, "status": status, "seconds_total": round(seconds, 4)}
        fields |= {name: self.inputs[name] for name in names if name in self.inputs}
        if self.declared.isdecimal():
            fields["bytes_in"] = int(self.declared)
        if self.image_bytes:
            fields |= {
                "bytes_out": self.image_bytes,
                "seed": metrics["seed"],
                "seconds": stage_seconds(metrics),
            }
        return fields
