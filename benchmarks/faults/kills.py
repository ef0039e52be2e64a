"""Processes that are killed, a disk that is full, and clients that leave or drip."""

import contextlib
import os
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.faults.served import Served, until
from benchmarks.faults.soak import SMALL
from benchmarks.report import Row

ANSWER_SECONDS = 5.0
TMPFS_BYTES = 6_000_000


def kills(served: Served, count: int, setup: float, seed: int = 0) -> Row:
    """Kills the worker and the server in turn, at random moments of a prediction.

    Args:
        served: the server.
        count: how often.
        setup: the seconds of its first setup, with which the later ones are compared.
        seed: of the moments.
    """
    draw = random.Random(seed)
    answers, returns = [], []
    for number in range(count):
        served.ready()
        outcome: list[Any] = []
        request = threading.Thread(target=_ask, args=(served, outcome))
        request.start()
        time.sleep(draw.uniform(0.0, 2.0))
        victim = served.worker() if number % 2 else served.server()
        begun = time.monotonic()
        victim.kill()
        request.join(60)
        answers.append(time.monotonic() - begun)
        if not outcome or outcome[0] not in ("failed", "succeeded", "no connection"):
            served.problems.append(f"kill {number}: {outcome}")
        if answers[-1] > ANSWER_SECONDS:
            served.problems.append(f"kill {number}: answered after {answers[-1]:.1f} s")
        until(partial(_is_gone, served, victim.pid), "another process", served.log)
        served.ready()
        if served.predict(SMALL)["status"] != "succeeded":
            served.problems.append(f"kill {number}: the next request failed")
        returns.append(time.monotonic() - begun)
    left = served.left_files()
    if left:
        served.problems.append(f"kills: left behind: {left[:5]}")
    return {
        "test": "kill -9 of worker and server in turn, in the middle of a prediction",
        "cases": count,
        "result": f"what was in flight was answered, or its connection closed, after "
        f"{max(answers):.1f} s at most; the next image was there after {max(returns):.0f} s at "
        f"most, pause, setup and image included (first setup: {setup:.0f} s); {len(left)} files "
        "left behind",
    }


def _ask(served: Served, outcome: list[Any]) -> None:
    try:
        outcome.append(
            served.call("POST", "/predictions", {"input": SMALL | {"num_steps": 30}})[1]["status"]
        )
    except OSError:
        outcome.append("no connection")


def _is_gone(served: Served, pid: int) -> bool:
    children = psutil.Process(served.process.pid).children(recursive=True)
    return pid not in [each.pid for each in children]


def endings(folder: Path, environment: Mapping[str, str], problems: list[str]) -> Row:
    """Ends servers in four ways, idle and at work; nothing may be left in the temporary folder."""
    left = 0
    ways = ("SIGTERM", "SIGINT", "SIGKILL", "/shutdown")
    for number, way in enumerate([*ways, *ways]):
        with Served(folder / f"end-{number}", environment) as served:
            served.ready()
            if number >= len(ways):
                threading.Thread(target=_ask, args=(served, []), daemon=True).start()
                until(lambda: served.state() == "BUSY", "a prediction", served.log)
            processes = psutil.Process(served.process.pid).children(recursive=True)
            _end(served, way)
            psutil.wait_procs(processes, timeout=60)
            alive = [each for each in processes if each.is_running()]
            found = served.left_files()
            folders = list(served.temporary.glob("dream-o-*"))
            left += len(found) + len(folders)
            if alive or found or folders:
                problems.append(f"ended by {way}: {alive} {found} {folders}")
    return {
        "test": f"ending by {', '.join(ways)}, idle and at work",
        "cases": 2 * len(ways),
        "result": f"{left} files and folders of the project left behind",
    }


def _end(served: Served, way: str) -> None:
    if way == "/shutdown":
        with contextlib.suppress(OSError):
            served.call("POST", "/shutdown", {})
    elif way == "SIGINT":
        # A terminal sends it to every process.
        for each in psutil.Process(served.process.pid).children(recursive=True):
            each.send_signal(2)
        served.process.send_signal(2)
    else:
        served.process.kill() if way == "SIGKILL" else served.process.terminate()


def dropped_clients(served: Served, count: int) -> Row:
    """Clients that leave in the middle of a request, of an upload, or of an answer."""
    for number in range(count):
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            body = b'{"input": {"prompt": "a hill"}}'
            whole = len(body) if number % 2 else len(body) + 10_000_000
            head = f"POST /predictions HTTP/1.1\r\nHost: x\r\nContent-Length: {whole}\r\n"
            client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            time.sleep(0.02)
    served.ready()
    status = served.predict(SMALL)["status"]
    if status != "succeeded":
        served.problems.append(f"dropped clients: the next request {status}")
    return {
        "test": "clients that leave during a request or an upload",
        "cases": count,
        "result": f"the next request {status}",
    }


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of TMPFS_BYTES; None where this user cannot mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:  # noqa: S603 - our own
        yield None
        return
    try:
        yield folder
    finally:
        unmount = ["umount", "--lazy", str(folder)]
        subprocess.run(unmount, check=False, capture_output=True)  # noqa: S603 - our own


def full_disk(folder: Path, environment: Mapping[str, str], problems: list[str]) -> Row:
    """Requests while the temporary folder's disk is full, and after it has room again."""
    name = "full disk, with and without an upload"
    with small_disk(folder / "disk") as disk:
        if disk is None:
            return {"test": name, "cases": 0, "result": "not run: mounting a disk needs root"}
        with Served(folder / "full", environment, temporary=disk) as served:
            served.ready()
            fill = disk / "fill"
            with contextlib.suppress(OSError), fill.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
            errors = set()
            for extra in ({"output_format": "png"}, {"ref_image1": "data:," + "x" * 200_000}):
                answer = served.predict(SMALL | extra)
                errors.add(str(answer.get("error")))
                if answer["status"] != "failed":
                    problems.append(f"full disk: {answer['status']}")
            fill.unlink()
            after = served.predict(SMALL)["status"]
            if after != "succeeded":
                problems.append(f"full disk, with room again: {after}")
            problems += served.problems
    return {
        "test": name,
        "cases": 3,
        "result": f"{'; '.join(sorted(errors))}; with room again: {after}",
    }
