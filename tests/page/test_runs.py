import threading
import time

import pytest
import torch
from PIL import Image

from dream_o.errors import InputError
from dream_o.page.runs import CancelledError, Progress, Runs, watch
from dream_o.service.result import Result

RESULT = Result(Image.new("RGB", (8, 8)), {"seed": 1}, {})
STEPS = 4


def steps(on_step, pause=0.0):
    """Calls `on_step` as a request of four steps does."""
    for step in range(STEPS):
        time.sleep(pause)
        on_step(step, torch.full((1, 4, 64), float(step)))
    return RESULT


def test_progress_comes_after_each_step_and_the_result_at_last():
    events = list(watch(steps, STEPS, threading.Event()))
    assert events.pop() is RESULT
    assert [event.step for event in events] == [0, 1, 2, 3, 4]
    assert {event.steps for event in events} == {STEPS}


def test_the_time_that_is_left_is_told_from_the_second_step_on_and_ends_at_zero():
    events = list(watch(lambda on_step: steps(on_step, 0.01), STEPS, threading.Event()))
    left = [event.seconds_left for event in events if isinstance(event, Progress)]
    assert left[:2] == [None, None]
    assert left[-1] == 0
    assert left[2] > left[3] > 0


def test_a_preview_is_drawn_of_the_latents_before_and_after_a_step():
    def draw(before, after, step):
        return float(before.mean()), float(after.mean()), step

    events = list(watch(steps, STEPS, threading.Event(), draw))
    drawn = [event.preview for event in events if isinstance(event, Progress)]
    assert drawn == [None, None, (0.0, 1.0, 1), (1.0, 2.0, 2), (2.0, 3.0, 3)]


def test_a_failed_preview_does_not_end_the_request(caplog):
    *events, last = watch(steps, STEPS, threading.Event(), lambda *_: 1 / 0)
    assert last is RESULT
    assert [event.step for event in events] == [0, 1, 2, 3, 4]
    assert {event.preview for event in events} == {None}
    assert [each.getMessage().partition(";")[0] for each in caplog.records] == [
        "page: a preview failed"
    ]


def test_the_progress_of_a_second_pass_continues_that_of_the_first():
    def generate(on_step):
        for step in (0, 1, 2, 0, 1):
            on_step(step, torch.zeros(1, 4, 8, 8))
        return RESULT

    *events, _ = watch(generate, 5, threading.Event())
    assert [event.step for event in events] == [0, 1, 2, 3, 4, 5]


def test_cancelling_ends_a_request_at_its_next_step():
    cancelled, seen = threading.Event(), []

    def generate(on_step):
        for step in range(100):
            seen.append(step)
            on_step(step, torch.zeros(1, 4, 64))
            if step == 2:
                cancelled.set()
        return RESULT

    with pytest.raises(CancelledError):
        list(watch(generate, 100, cancelled))
    assert seen == [0, 1, 2, 3]


def test_a_request_that_was_cancelled_while_it_waited_does_not_begin():
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(CancelledError):
        list(watch(pytest.fail, STEPS, cancelled))


def test_a_refusal_is_raised_to_the_one_who_watches():
    def generate(on_step):
        raise InputError("prompt", "is empty")

    with pytest.raises(InputError, match=r"^prompt: is empty$"):
        list(watch(generate, STEPS, threading.Event()))


def test_a_tab_cancels_its_own_requests_only():
    runs = Runs()
    with runs.cancellable("one") as one, runs.cancellable("two") as two:
        runs.cancel("one")
        assert one.is_set()
        assert not two.is_set()
        runs.cancel("a tab that waits for nothing")


def test_a_request_ends_when_nobody_reads_its_progress():
    runs = Runs()
    with runs.cancellable("one") as event:
        assert not event.is_set()
    assert event.is_set()


def test_dream_o_ends_at_the_step_at_which_it_is_cancelled(desk):
    from dream_o.service.request import Request

    request = Request("a hill", width=96, height=64, num_steps=8, seed=5)
    before = desk.dream_o.generate(request).image
    seen = []

    def cancel_after_three_steps():
        with desk.runs.cancellable("tab") as cancelled:
            for event in desk.run([desk.job(request)], cancelled):
                seen.append(event.step)
                if event.step == 3:
                    desk.runs.cancel("tab")

    with pytest.raises(CancelledError):
        cancel_after_three_steps()
    assert 3 <= seen[-1] <= 4
    assert desk.dream_o.generate(request).image.tobytes() == before.tobytes()
