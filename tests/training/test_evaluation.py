"""The evaluation: true images get full scores, others do not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dream_o.paths import EMBEDDED_BUNDLE
from training.miniature.__main__ import main
from training.miniature.evaluation import TASKS, Job, draw_all, held_out_examples, score, table
from training.miniature.examples import is_held_out
from training.world.drawing import Oddment, draw_tiles


@pytest.mark.parametrize("task", TASKS)
def test_true_images_get_full_scores_and_exchanged_images_do_not(task: str) -> None:
    assert not any(
        isinstance(each.contents.subject, Oddment) for each in held_out_examples(task, 60)
    )
    examples = held_out_examples(task, 3)
    assert examples == held_out_examples(task, 3)
    assert all(is_held_out(each.contents) for each in examples)
    random = np.random.default_rng(0)
    tiles = [draw_tiles(each.contents, 64, 64, random).astype(np.float32) for each in examples]
    assert set(score(task, tiles, examples).values()) == {1.0}
    mixed = score(task, [*tiles[1:], tiles[0]], examples)
    assert min(mixed.values()) < 1.0


def test_the_table_contains_every_score() -> None:
    report = {
        "width": 1024,
        "height": 768,
        "count": 4,
        "judge": 1.0,
        "tasks": {"ip": {"shape": 0.25, "seconds": 9.5}},
        "steering": {"moved away": 0.75},
    }
    assert table(report).splitlines() == [
        "1024 x 768, 4 images per task, the judge is right on 100% of true images",
        "ip     shape 25%; 9.5 s per image",
        "moved away: 0.750",
    ]


def test_several_processes_draw_the_same_as_one(fused: Callable[[str, bool], Path]) -> None:
    steps = {"num_inference_steps": 1}
    jobs = [
        Job(example, (256, 256), seed, steps)
        for seed, example in enumerate(held_out_examples("ip", 2))
    ]
    alone, shared = (draw_all(fused("v1.1", True), jobs, processes) for processes in (1, 2))
    assert len(alone) == 2
    for (tiles, _), (others, _) in zip(alone, shared, strict=True):
        assert tiles.shape == (16, 16, 3)
        assert np.abs(tiles - others).max() < 0.1
    assert (alone[0][0] != alone[1][0]).any()


@pytest.mark.parametrize(
    ("task", "steps", "known"),
    [
        ("text", 4, ("scene", "colour")),
        ("ip", 4, ("scene", "colour", "shape")),
        ("id", 4, ("scene", "skin", "hair")),
        ("style", 4, ("palette",)),
        ("id+ip", 8, ("person", "subject")),
    ],
)
def test_the_embedded_bundle_draws_what_the_prompt_says(
    task: str, steps: int, known: tuple[str, ...]
) -> None:
    example = held_out_examples(task, 1)[0]
    options = {"num_inference_steps": steps}
    ((tiles, _),) = draw_all(EMBEDDED_BUNDLE, [Job(example, (768, 768), 0, options)])
    scores = score(task, [tiles], [example])
    assert [name for name in known if not scores[name]] == []


def test_a_command_line_error_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--tasks", "text,face"]) == 1
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("error: tasks: 'face' is not one of ")
    )
    for wrong in (["--count", "0"], ["--count", "many"]):
        with pytest.raises(SystemExit):
            main(["evaluate", *wrong])
        assert "is not a whole number of at least 1" in capsys.readouterr().err
