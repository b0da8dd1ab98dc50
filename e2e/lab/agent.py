"""Runs commands in a guest, through the agent in it (``guestfiles/agent.py`` describes the protocol)."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from lab.errors import LabError

GUEST_PORT = 7700


@dataclass(frozen=True)
class Agent:
    """How to reach one guest: a port of this host's loopback that is forwarded to it, and the shared token."""

    name: str
    port: int
    token: str

    def run(
        self,
        argv: Sequence[str],
        *,
        seconds: float = 60,
        stdin: bytes | BinaryIO = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "/root",
        stdout: Callable[[bytes], Any] | None = None,
        stderr: Callable[[bytes], Any] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``argv`` as root in the guest; after ``seconds`` it is killed there and LabError raised.

        ``stdout`` and ``stderr`` are called with bytes as they come; without them the result holds the text.
        With ``check`` an exit status other than 0 is a LabError too.
        """
        deadline = time.monotonic() + seconds
        out, err = bytearray(), bytearray()
        take_out: Callable[[bytes], Any] = stdout or out.extend
        take_err: Callable[[bytes], Any] = stderr or err.extend
        with self._open({"argv": list(argv), "env": dict(env or {}), "cwd": cwd}) as link:
            feed = _Feed(link, stdin)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise LabError(
                        f"not finished after {seconds:g} s on {self.name}: {shlex.join(argv)}\n"
                        + (out + err).decode(errors="replace")[-2000:]
                    )
                ready, writable, _ = select.select([link], [link] if feed.more else [], [], left)
                if writable:
                    feed.send()
                if not ready:
                    continue
                kind, payload = _receive(link, left, self.name)
                if kind == b"O":
                    take_out(payload)
                elif kind == b"E":
                    take_err(payload)
                else:
                    code = int(json.loads(payload)["code"])
                    break
        result = subprocess.CompletedProcess(
            list(argv), code, out.decode(errors="replace"), err.decode(errors="replace")
        )
        if check and code != 0:
            raise LabError(
                f"exit status {code} on {self.name}: {shlex.join(argv)}\n{(result.stdout + result.stderr)[-2000:]}"
            )
        return result

    def shell(self, argv: Sequence[str] = ("bash", "-l")) -> int:
        """An interactive session on this terminal; returns its exit status."""
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise LabError("a shell needs a terminal", next_step="lab exec NODE -- COMMAND runs one without")
        size = os.get_terminal_size()
        request = {
            "argv": list(argv),
            "env": {"TERM": os.environ.get("TERM", "linux"), "HOME": "/root"},
            "tty": [size.lines, size.columns],
        }
        before = termios.tcgetattr(sys.stdin)
        with self._open(request) as link:

            def resized(*_: object) -> None:
                packed = fcntl.ioctl(sys.stdout, termios.TIOCGWINSZ, b"\0" * 8)
                link.sendall(_frame(b"W", json.dumps(struct.unpack("HHHH", packed)[:2]).encode()))

            previous = signal.signal(signal.SIGWINCH, resized)
            try:
                tty.setraw(sys.stdin)
                while True:
                    ready, _, _ = select.select([link, sys.stdin], [], [])
                    if sys.stdin in ready:
                        link.sendall(_frame(b"I", os.read(sys.stdin.fileno(), 4096)))
                    if link in ready:
                        kind, payload = _receive(link, 60, self.name)
                        if kind == b"X":
                            return int(json.loads(payload)["code"])
                        os.write(sys.stdout.fileno(), payload)
            finally:
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
                signal.signal(signal.SIGWINCH, previous)

    def wait(self, *, seconds: float, alive: Callable[[], bool]) -> None:
        """Wait until the guest runs commands; LabError after ``seconds`` or once ``alive()`` is false."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.run(["true"], seconds=10)
                return
            except (LabError, OSError):
                if not alive():
                    raise LabError(f"the machine {self.name} has ended while starting") from None
                if time.monotonic() > deadline:
                    raise LabError(f"{self.name} does not answer after {seconds:.0f} s") from None
                time.sleep(0.2)

    def _open(self, request: Mapping[str, Any]) -> socket.socket:
        try:
            link = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        except OSError as error:
            raise LabError(f"{self.name} does not answer ({error})", next_step="see: lab status") from error
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.sendall(_frame(b"R", json.dumps({**request, "token": self.token}).encode()))
        return link


class _Feed:
    """The command's input, sent piece by piece as the connection takes it."""

    def __init__(self, link: socket.socket, source: bytes | BinaryIO) -> None:
        self._link = link
        self._source = source
        self._at = 0
        self.more = True

    def send(self) -> None:
        if isinstance(self._source, bytes):
            piece = self._source[self._at : self._at + 65536]
            self._at += len(piece)
        else:
            piece = self._source.read(65536)
        self._link.sendall(_frame(b"I", piece) if piece else _frame(b"C", b""))
        self.more = bool(piece)


def _frame(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("!I", len(payload)) + payload


def _receive(link: socket.socket, seconds: float, name: str) -> tuple[bytes, bytes]:
    link.settimeout(max(seconds, 0.1))
    header = _exactly(link, 5, name)
    return header[:1], _exactly(link, struct.unpack("!I", header[1:])[0], name)


def _exactly(link: socket.socket, size: int, name: str) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            part = link.recv(size - len(data))
        except OSError as error:
            raise LabError(f"the connection to {name} broke ({error})") from error
        if not part:
            raise LabError(f"the connection to {name} was closed")
        data += part
    return bytes(data)
