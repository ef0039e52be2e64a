"""Memory that is freed goes back to the system, and what can be made again is dropped for it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dream_o.runtime import host_memory
from dream_o.server import worker_files
from tests.fresh_process import run_fresh

# Frees 256 MB in blocks that glibc keeps, because the last block holds the end of the heap.
FREE_BLOCKS = """
import ctypes, os
from pathlib import Path

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
SIZE = 64 * 1024

def resident():
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") // 2**20

def free_blocks():
    blocks = [libc.malloc(SIZE) for _ in range(4097)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    for block in blocks[:-1]:
        libc.free(block)
"""

AFTER_A_PREDICTION = """
from dream_o.server.worker_files import prediction

before = resident()
with prediction():
    free_blocks()
    kept = resident() - before
print(kept, resident() - before)
"""

AFTER_MEMORY_RAN_OUT = """
from dream_o.errors import UserError
from dream_o.runtime.memory import or_out_of_memory

before = resident()

def fill():
    global kept
    free_blocks()
    kept = resident() - before
    raise MemoryError

try:
    or_out_of_memory(fill, "too large")
except UserError:
    print(kept, resident() - before)
"""


@pytest.mark.parametrize("code", [AFTER_A_PREDICTION, AFTER_MEMORY_RAN_OUT])
def test_freed_memory_is_given_back_to_the_system(code: str) -> None:
    kept, left = map(int, run_fresh(FREE_BLOCKS + code).split())
    assert kept > 200, "MB that the C library keeps"
    assert left < 50


def test_predictions_end_well_where_the_c_library_has_nothing_to_give_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: object())
    answers = []
    for number in range(2):
        with worker_files.prediction():
            answers.append(number)
    assert answers == [0, 1]


@pytest.mark.parametrize(
    ("limit", "available"), [("6000", 5000), ("900", 0), ("max", 10**6), (str(10**9), 10**6)]
)
def test_available_memory_is_what_the_container_has_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, available: int
) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.stat").write_text("file 70000\nanon 1000\nanon_thp 0\n")
    monkeypatch.setattr(host_memory, "CGROUP", tmp_path)
    monkeypatch.setattr(
        host_memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**6)
    )
    assert host_memory.available_memory() == available
