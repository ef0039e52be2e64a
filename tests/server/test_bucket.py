"""What a server with --upload-url puts at that address."""

import io
import json

import numpy as np
from PIL import Image

from tests.conftest import PARITY
from tests.server.client import until


def test_with_upload_url_the_output_is_put_there(uploading_server, bucket):
    before = len(bucket.received)
    prediction = uploading_server.predict(output_format="jpg")
    assert prediction["status"] == "succeeded"
    (upload,) = bucket.received[before:]
    assert upload.method == "PUT"
    assert upload.headers["content-type"] == "image/jpeg"
    assert prediction["output"] == bucket.url + upload.path
    assert Image.open(io.BytesIO(upload.content)).size == (768, 768)
    until(lambda: not uploading_server.temporary_files(), "the output file to go")


def test_the_published_style_case_matches_the_original(uploading_server, bucket):
    cases = json.loads((PARITY / "cases.json").read_text())
    (case,) = [each for each in cases if each["name"] == "style"]
    fields = ("prompt", "width", "height", "num_steps", "guidance", "seed", "ref_res")
    prediction = uploading_server.predict(
        **{name: case[name] for name in fields},
        ref_image1=(PARITY / "refs" / case["refs"][0]["image"]).read_bytes(),
        ref_task1="style",
        output_format="png",
    )
    assert prediction["status"] == "succeeded", prediction.get("error")
    (content,) = [
        each.content for each in bucket.received if prediction["output"] == bucket.url + each.path
    ]
    pixels = np.asarray(Image.open(io.BytesIO(content))).astype(int)[::8, ::8]
    golden = np.load(PARITY / "golden" / "style.npz")["image_u8"].astype(int)
    assert golden.shape == pixels.shape
    assert (np.abs(pixels - golden) <= 1).mean() >= 0.999
