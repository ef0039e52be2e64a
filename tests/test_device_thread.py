"""The thread that owns a device: whose answers, errors, interruptions and log lines are whose."""

import contextvars
import threading
import time
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dream_o.runtime import device_thread
from dream_o.runtime.device_thread import DeviceThread, stop_if_abandoned
from dream_o.runtime.memory import or_out_of_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Cancelled(BaseException):
    """As the Cog server raises it in a thread that predicts."""


@pytest.fixture
def thread():
    return DeviceThread(CPU)


def raise_in(target: threading.Thread, error: type[BaseException]) -> None:
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(target.ident), ctypes.py_object(error)
    )


def calling(thread, function):
    """A thread that calls, and what it got in the end."""
    got = []

    def run():
        try:
            got.append(thread.call(function))
        except BaseException as error:
            got.append(error)

    caller = threading.Thread(target=run)
    caller.start()
    return caller, got


def test_calls_of_all_threads_are_made_in_one(thread):
    made = []
    callers = [calling(thread, lambda: made.append(threading.get_ident())) for _ in range(4)]
    for caller, _ in callers:
        caller.join()
    assert len(made) == 4
    assert len(set(made)) == 1
    assert made[0] != threading.get_ident()


def test_a_call_within_a_call_is_made_at_once(thread):
    assert thread.call(lambda: thread.call(lambda: 7)) == 7


def test_an_error_is_the_callers_and_the_next_call_is_made(thread):
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        thread.call(fail)
    assert thread.call(lambda: 3) == 3


def test_a_call_sees_the_callers_context_variables(thread):
    whose = contextvars.ContextVar("whose", default="nobody's")
    whose.set("mine")
    assert thread.call(whose.get) == "mine"
    assert contextvars.Context().run(lambda: thread.call(whose.get)) == "nobody's"


def test_who_is_interrupted_while_waiting_stops_the_call(thread):
    steps, released = [], []

    def work():
        try:
            while True:
                steps.append(1)
                stop_if_abandoned()
                time.sleep(0.005)
        finally:
            released.append(True)

    caller, got = calling(thread, work)
    while len(steps) < 3:
        time.sleep(0.005)
    raise_in(caller, Cancelled)
    caller.join(5)
    assert isinstance(got[0], Cancelled)
    assert released
    count = len(steps)
    assert thread.call(lambda: 4) == 4
    assert len(steps) == count


def test_a_call_whose_caller_has_gone_is_not_made(thread):
    begun, gate, made = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        gate.wait()

    before, _ = calling(thread, first)
    begun.wait()
    after, got = calling(thread, lambda: made.append(1))
    time.sleep(0.05)
    raise_in(after, Cancelled)
    after.join(5)
    assert isinstance(got[0], Cancelled)
    gate.set()
    before.join(5)
    assert thread.call(lambda: "next") == "next"
    assert not made


def test_an_interruption_never_hits_another_callers_call(thread):
    # The callers are interrupted at about the time when their calls begin or end.
    def work(turn):
        time.sleep(0.0002)
        stop_if_abandoned()
        return turn

    for turn in range(300):
        caller, got = calling(thread, lambda turn=turn: work(turn))
        time.sleep(turn % 10 * 0.0001)
        raise_in(caller, Cancelled)
        assert thread.call(lambda turn=turn: work(-turn)) == -turn
        caller.join(5)
        assert not caller.is_alive()
        assert not got or got[0] == turn or isinstance(got[0], Cancelled)


def test_a_call_that_does_not_stop_keeps_its_caller_no_longer_than_told(thread, monkeypatch):
    monkeypatch.setattr(device_thread, "STOP_SECONDS", 0.05)
    gate, begun = threading.Event(), threading.Event()

    def work():
        begun.set()
        gate.wait()

    caller, got = calling(thread, work)
    begun.wait()
    raise_in(caller, Cancelled)
    caller.join(5)
    assert isinstance(got[0], Cancelled)
    gate.set()
    assert thread.call(lambda: 6) == 6


def test_without_an_interruption_nothing_is_stopped(thread):
    def work():
        stop_if_abandoned()
        return "the end"

    assert work() == "the end"  # outside any call
    assert thread.call(work) == "the end"


def test_the_thread_ends_with_its_object():
    thread = DeviceThread(CPU)
    assert thread.call(lambda: 1) == 1
    runs = thread._thread
    del thread
    runs.join(5)
    assert not runs.is_alive()


def test_an_answer_is_not_kept(thread):
    class Answer:
        pass

    kept = weakref.ref(thread.call(Answer))
    thread.call(lambda: None)
    assert kept() is None


def test_out_of_memory_is_told_and_the_next_call_is_made(thread):
    def fill():
        raise torch.OutOfMemoryError("full")

    with pytest.raises(Exception, match="too large"):
        thread.call(lambda: or_out_of_memory(fill, "too large"))
    assert thread.call(lambda: 5) == 5


class TestHealth:
    def test_a_device_that_computes_is_healthy(self, monkeypatch):
        asked = []
        thread = DeviceThread(CUDA)
        monkeypatch.setattr(thread, "_compute", lambda: asked.append(threading.current_thread()))
        assert thread.is_healthy(5)
        assert asked == [thread._thread]

    def test_a_product_is_computed_on_the_device(self):
        thread = DeviceThread(CPU)
        products: list[torch.Tensor] = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                result = function(*args, **(kwargs or {}))
                if "mm" in str(function):
                    products.append(result)
                return result

        def watched():
            with Watch():
                thread._compute()

        thread.call(watched)
        assert [each.device for each in products] == [CPU]

    def test_a_cpu_is_healthy_without_a_product(self, thread, monkeypatch):
        monkeypatch.setattr(thread, "_compute", lambda: 1 / 0)
        assert thread.is_healthy(5)

    def test_a_device_that_fails_is_not(self, caplog):
        thread = DeviceThread(torch.device("cuda", 99))
        assert not thread.is_healthy(5)
        assert "health: cuda:99 failed" in caplog.text

    def test_a_device_that_hangs_is_not_and_stays_so(self, monkeypatch, caplog):
        thread, gate = DeviceThread(CUDA), threading.Event()
        monkeypatch.setattr(thread, "_compute", gate.wait)
        assert not thread.is_healthy(0.05)
        assert "did not answer within 0.05 s" in caplog.text
        caller, _ = calling(thread, lambda: None)
        assert not thread.is_healthy(0.05)
        gate.set()
        caller.join(5)
        assert thread.is_healthy(5)

    def test_a_device_whose_cancelled_call_does_not_stop_is_not(self, monkeypatch, caplog):
        monkeypatch.setattr(device_thread, "STOP_SECONDS", 0.05)
        thread, gate, begun = DeviceThread(CUDA), threading.Event(), threading.Event()
        monkeypatch.setattr(thread, "_compute", lambda: None)

        def work():
            begun.set()
            gate.wait()

        caller, _ = calling(thread, work)
        begun.wait()
        raise_in(caller, Cancelled)
        caller.join(5)
        assert thread.is_healthy(0.05)
        monkeypatch.setattr(device_thread, "HANG_SECONDS", 0)
        assert not thread.is_healthy(0.05)
        assert "a cancelled call on cuda does not stop" in caplog.text
        gate.set()
        thread.call(lambda: None)
        assert thread.is_healthy(5)

    def test_a_device_that_works_for_a_caller_is_not_asked(self, monkeypatch):
        thread, gate = DeviceThread(CUDA), threading.Event()
        monkeypatch.setattr(thread, "_compute", lambda: 1 / 0)
        caller, _ = calling(thread, gate.wait)
        time.sleep(0.05)
        assert thread.is_healthy(0.05)
        gate.set()
        caller.join(5)
        assert not thread.is_healthy(5)
