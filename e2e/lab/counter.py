"""The processor's time-stamp counter, which emulated processors hand on as it is: how fast it counts.

A guest's kernel measures that against an emulated timer while it boots. Where the host is busy the emulator may be too
late with the timer, and the guest believes it: one took 2.6 GHz for 76, so that its clock ran at a thirtieth of the
time, and everything in it that waits with it (docs/decisions/0010-the-lab.md).
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import statistics
import time
from collections.abc import Callable
from functools import cache as remember

_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
"""rdtsc; shl rdx, 32; or rax, rdx; ret"""
_SAMPLES, _SECONDS = 5, 0.02
_LOOKS = 20


@remember
def khz() -> int:
    """In thousands a second, to a ten-thousandth; 0: this machine has no such counter, or lets nobody read it."""
    if platform.machine() != "x86_64":
        return 0
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return 0
    page.write(_RDTSC)
    count = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return round(statistics.median(_sample(count) for _ in range(_SAMPLES)))


def _sample(count: Callable[[], int]) -> float:
    first, began = _both(count)
    time.sleep(_SECONDS)
    last, ended = _both(count)
    return (last - first) / (ended - began) * 1e6


def _both(count: Callable[[], int]) -> tuple[int, float]:
    """The counter, and the clock in nanoseconds at that moment: of several looks the one that nobody came between."""
    looks = ((time.monotonic_ns(), count(), time.monotonic_ns()) for _ in range(_LOOKS))
    before, ticks, after = min(looks, key=lambda look: look[2] - look[0])
    return ticks, (before + after) / 2
