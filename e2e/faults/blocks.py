"""Writes checksummed blocks to random places of a raw device, over and over; runs in a guest, on the standard library.

    blocks.py DEVICE VOLUME BLOCKS --first SEQUENCE --rate R --own FILE

Each block of 4096 bytes says which volume, which block and which sequence number it is. One line to standard output
before a write is begun (``W block sequence``), one when it has been acknowledged, with FUA (``A block sequence``), or
answered with an error (``E block sequence errno``). Numbers rise with time for each block, as one thread has it. The
same lines are appended to ``FILE``, for whoever cannot hear them now.
SIGTERM ends it once no write is in flight.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import os
import random
import signal
import struct
import threading
import time

BLOCK = 4096
MAGIC = b"millpond"
HEAD = struct.Struct(">8s16sQQ")
STDOUT = 1
THREADS = 4
"""Thread ``n`` writes the blocks whose number leaves ``n``, with sequence numbers that do."""


def make(volume: bytes, block: int, sequence: int) -> bytes:
    """The content of a block; 16 bytes of ``volume``."""
    body = HEAD.pack(MAGIC, volume, block, sequence)
    body += os.urandom(BLOCK - len(body) - 32)
    return body + hashlib.sha256(body).digest()


def read(volume: bytes, block: int, content: bytes) -> int | None:
    """The sequence number of a block, 0 for one never written; None: it is not what any write of ours left there."""
    if not any(content):
        return 0
    magic, whose, number, sequence = HEAD.unpack_from(content)
    whole = hashlib.sha256(content[:-32]).digest() == content[-32:]
    return sequence if whole and (magic, whose, number) == (MAGIC, volume, block) else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("device")
    parser.add_argument("volume", type=bytes.fromhex)
    parser.add_argument("blocks", type=int)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--rate", type=float, default=60)
    parser.add_argument("--own", metavar="FILE")
    given = parser.parse_args()
    if given.own:
        # Its own list first: it knows of all that anybody is told.
        outputs.insert(0, os.open(given.own, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    threads = [threading.Thread(target=write, args=(given, own, ended)) for own in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # a signal is handled between two waits
            thread.join(0.2)


def write(given: argparse.Namespace, own: int, ended: threading.Event) -> None:
    device = os.open(given.device, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    buffer = mmap.mmap(-1, BLOCK)
    sequence, chance = given.first + own, random.Random()
    while not ended.is_set():
        block = chance.randrange(given.blocks // THREADS) * THREADS + own
        buffer[:] = make(given.volume, block, sequence)
        say(f"W {block} {sequence}")
        try:
            os.pwrite(device, buffer, block * BLOCK)
            say(f"A {block} {sequence}")
        except OSError as error:
            say(f"E {block} {sequence} {error.errno}")
            time.sleep(0.2)
        sequence += THREADS
        ended.wait(THREADS / given.rate)


outputs = [STDOUT]


def say(line: str) -> None:
    for output in outputs:
        os.write(output, line.encode() + b"\n")


if __name__ == "__main__":
    main()
