"""What a server with --upload-url puts at that address."""

import io
import json

import numpy as np
from PIL import Image

from tests.conftest import PARITY
from tests.server.client import until


def test_the_image_of_the_published_style_case_is_put_there(uploading_server, bucket):
    cases = json.loads((PARITY / "cases.json").read_text())
    (case,) = [each for each in cases if each["name"] == "style"]
    fields = ("prompt", "width", "height", "num_steps", "guidance", "seed", "ref_res")
    before = len(bucket.received)
    prediction = uploading_server.predict(
        **{name: case[name] for name in fields},
        ref_image1=(PARITY / "refs" / case["refs"][0]["image"]).read_bytes(),
        ref_task1="style",
        output_format="png",
    )
    assert prediction["status"] == "succeeded", prediction.get("error")
    (upload,) = bucket.received[before:]
    assert upload.method == "PUT"
    assert upload.headers["content-type"] == "image/png"
    assert prediction["output"] == bucket.url + upload.path
    pixels = np.asarray(Image.open(io.BytesIO(upload.content))).astype(int)[::8, ::8]
    golden = np.load(PARITY / "golden" / "style.npz")["image_u8"].astype(int)
    assert golden.shape == pixels.shape
    assert (np.abs(pixels - golden) <= 1).mean() >= 0.999
    until(lambda: not uploading_server.temporary_files(), "the output file to go")
