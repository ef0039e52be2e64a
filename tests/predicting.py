"""What the tests of script/predict share."""

from pathlib import Path

from dream_o.service.generator import Result
from tests.requests_table import picture


class Recorder:
    """In the place of a loaded bundle: keeps the requests and their uploads, gives grey images."""

    def __init__(self):
        self.requests = []
        self.uploads = []

    def generate(self, request):
        print("a line on standard output")
        self.requests.append(request)
        self.request = request
        uploads = [each.image for each in request.references]
        self.uploads = [each and Path(each).read_bytes() for each in uploads]
        metadata = {"prompt": request.prompt, "seed": request.seed}
        return Result(picture("RGB"), metadata, {"seed": 1})


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
