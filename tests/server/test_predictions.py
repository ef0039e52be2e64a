"""Requests to the real Cog server that give an image."""

import io
import subprocess

import numpy as np
import pytest
from PIL import Image

from dream_o.images.writing import read_metadata
from tests import ROOT
from tests.requests_table import ACCEPTED, SMALL, encoded, picture
from tests.server.client import decoded, environment, small, until


def image_of(prediction):
    assert prediction["status"] == "succeeded", prediction.get("error")
    return Image.open(io.BytesIO(decoded(prediction["output"])[1]))


@pytest.mark.parametrize(("form", "mime"), [("png", "image/png"), ("jpg", "image/jpeg")])
def test_a_prediction_is_one_file_of_the_asked_size_and_kind(server, form, mime):
    prediction = server.predict(output_format=form, width=784)
    assert prediction["status"] == "succeeded"
    assert decoded(prediction["output"])[0] == mime
    image = image_of(prediction)
    assert (image.size, image.mode) == ((784, 768), "RGB")


def test_seeds_above_2_63_reach_the_model_and_come_back_whole(server, tmp_path):
    seeds = (2**63 + 5, 2**64 - 1)
    images = []
    for seed in seeds:
        prediction = server.predict(seed=seed, output_format="png")
        assert prediction["metrics"]["seed"] == str(seed)
        assert f"seed: {seed}\n" in prediction["logs"]
        (tmp_path / "image.png").write_bytes(decoded(prediction["output"])[1])
        assert read_metadata(tmp_path / "image.png")["seed"] == seed
        images.append(np.asarray(image_of(prediction)))
    again = server.predict(seed=seeds[0], output_format="png")
    assert np.array_equal(image_of(again), images[0])
    alias = server.predict(seed=5, output_format="png")
    assert not np.array_equal(image_of(alias), images[0])


def test_a_missing_seed_is_drawn_and_told_three_times_and_the_default_is_webp(server, tmp_path):
    prediction = server.predict()
    mime, content = decoded(prediction["output"])
    assert mime == "image/webp"
    (tmp_path / "image.webp").write_bytes(content)
    seed = prediction["metrics"]["seed"]
    assert 0 <= seed < 2**63
    assert read_metadata(tmp_path / "image.webp")["seed"] == seed
    assert f"seed: {seed}\n" in prediction["logs"]
    assert prediction["metrics"]["steps"] == 8
    assert prediction["metrics"]["speed"] == "exact"
    stages = {"prompt", "references", "denoising", "decoding", "encoding"}
    assert set(prediction["metrics"]["seconds"]) == stages
    assert server.predict(seed=-1)["metrics"]["seed"] not in (-1, seed)


@pytest.mark.parametrize("pictures", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_odd_images_are_used(server, pictures):
    first, second = pictures
    prediction = server.predict(
        ref_image1=first, ref_task1="style", ref_image2=second, ref_task2="style"
    )
    assert image_of(prediction).size == (768, 768)


def test_a_task_without_its_image_is_ignored(server):
    assert server.predict(ref_task1="id", seed=4)["status"] == "succeeded"


def test_whole_numbers_may_be_written_with_a_decimal_point(server):
    # JSON does not tell 768.0 from 768, and the schema allows both.
    reference = encoded(picture(size=(300, 200)))
    prediction = server.predict(
        width=768.0,
        num_steps=8.0,
        seed=3.0,
        guidance=4,
        ref_res=256.0,
        cfg_start_step=0.0,
        cfg_end_step=1.0,
        output_quality=80.0,
        ref_image1=reference,
        ref_task1="style",
    )
    assert image_of(prediction).size == (768, 768)
    assert prediction["metrics"]["seed"] == 3
    assert "generate a same style image." in prediction["logs"]


def test_a_webhook_hears_of_the_start_and_the_end(server, hooks):
    answer = server.call(
        "POST",
        "/predictions",
        {"input": small({})}
        | {"webhook": f"{hooks.url}/hook", "webhook_events_filter": ["start", "completed"]},
        {"Prefer": "respond-async"},
    )
    assert answer.status == 202
    assert answer.body["status"] == "starting"

    def ended():
        return [each for each in hooks.events("/hook") if each["status"] == "succeeded"]

    (completed,) = until(ended, "the webhook")
    assert hooks.events("/hook")[0]["status"] in ("starting", "processing")
    assert completed["id"] == answer.body["id"]
    assert image_of(completed).size == (768, 768)
    server.idle()


def test_the_same_put_twice_is_one_prediction(server, hooks):
    path = "/predictions/twice"
    body = {"input": small({})} | {
        "webhook": f"{hooks.url}/hook",
        "webhook_events_filter": ["completed"],
    }
    first = server.call("PUT", path, body, {"Prefer": "respond-async"})
    second = server.call("PUT", path, body, {"Prefer": "respond-async"})
    assert (first.status, second.status) == (202, 202)
    assert first.body["id"] == second.body["id"] == "twice"
    until(lambda: hooks.events("/hook"), "the webhook")
    server.idle()
    assert [each["status"] for each in hooks.events("/hook")] == ["succeeded"]


def test_the_same_request_gives_the_same_bytes_twice_and_in_another_process(
    server, bundle, tmp_path
):
    first_picture = encoded(picture(size=(256, 256)))
    second_picture = encoded(picture(size=(256, 192)).rotate(180))
    inputs = {"prompt": "a hill", "seed": 7, "ref_task1": "style", "ref_task2": "ip"}
    request = inputs | {"ref_image1": first_picture, "ref_image2": second_picture}
    first, second = (server.predict(output_format="png", **request) for _ in range(2))
    assert first["status"] == second["status"] == "succeeded"
    assert first["output"] == second["output"]

    (tmp_path / "first.png").write_bytes(first_picture)
    (tmp_path / "second.png").write_bytes(second_picture)
    files = {"ref_image1": "@first.png", "ref_image2": "@second.png"}
    arguments = [f"-i{name}={value}" for name, value in (SMALL | inputs | files).items()]
    script = subprocess.run(
        [ROOT / "script" / "predict", *arguments, "-o", "image.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(tmp_path, bundle),
    )
    assert script.returncode == 0, script.stderr
    assert script.stdout == "image.png\n"
    assert "seed: 7" in script.stderr
    assert "8/8" in script.stderr
    assert "Warning" not in script.stderr
    assert (tmp_path / "image.png").read_bytes() == decoded(first["output"])[1]
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"first.png", "second.png", "image.png"}
