"""An emulated processor that gets the kernel's instructions wrong would have us search for faults that are not ours."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

_FLAGS_AFTER = bytes.fromhex(
    "53"  # push rbx
    "31c0 31db 31c9 31d2"  # eax, ebx, ecx, edx: 0
    "9c 9d"  # pushfq, popfq: the emulator knows the flags themselves
    "4839f0"  # cmp rax, rsi: and now only how to reckon them
    "f0480fc70f"  # lock cmpxchg16b [rdi]
    "9c 58"  # pushfq, pop rax
    "5b c3"  # pop rbx, ret
)
"""``flags(address, operand)``: RFLAGS after a cmpxchg16b that fails; ``address`` is a multiple of 16."""
CARRY_TO_OVERFLOW, INTERRUPTS = 0x8D5, 0x202
"""What a comparison sets, and what is always set in a process: interrupts, and bit 1."""


def test_cmpxchg16b_leaves_the_flags_alone_or_is_not_offered() -> None:
    offered = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")).split()
    assert "cx8" in offered
    if "cx16" not in offered:
        return  # so Linux does without; lab/accel.py
    assert flags_after(0x28EBB00) & ~CARRY_TO_OVERFLOW == INTERRUPTS


def flags_after(operand: int) -> int:
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(_FLAGS_AFTER)
    entry = ctypes.addressof(ctypes.c_char.from_buffer(code))
    room = ctypes.create_string_buffer(b"\xff" * 32, 32)
    found: int = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64)(entry)(
        -(-ctypes.addressof(room) // 16) * 16, operand
    )
    return found
