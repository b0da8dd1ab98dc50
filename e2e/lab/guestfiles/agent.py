"""Runs commands in a guest for the lab: the other end of ``lab/agent.py``, over TCP, with a token.

Frames both ways: one letter, a 4-byte big-endian length, the payload. From the lab: ``R`` request (JSON), ``I`` input,
``C`` end of input, ``W`` window size. From here: ``O`` output, ``E`` error output, ``X`` exit status (JSON).
A command whose connection goes away is killed with its process group; what it put in the background before
it ended stays.
"""

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import sys
import termios
import time
from typing import Any, NoReturn

DRAIN_SECONDS = 0.5


def main(token: str, port: int) -> None:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("0.0.0.0", port))
    server.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # connections are children of their own and need no wait
    while True:
        link, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                Session(link).serve(token)
            except (OSError, EOFError):
                pass
            finally:
                os._exit(0)
        link.close()


class Session:
    """One connection: one command."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pid = 0
        self.terminal = -1

    def serve(self, token: str) -> None:
        """Take the request, run it, report its end."""
        self.link.settimeout(10)
        kind, payload = self.receive()
        request = json.loads(payload)
        if kind != b"R" or request.get("token") != token:
            return
        self.link.settimeout(None)
        try:
            stdin, streams = self.start(request)
        except OSError as error:
            self.send(b"E", f"{request['argv'][0]}: {error.strerror}\n".encode())
            self.send(b"X", json.dumps({"code": 127}).encode())
            return
        try:
            self.pump(stdin, streams)
        except (OSError, EOFError):
            os.killpg(self.pid, signal.SIGKILL)
            raise

    def start(self, request: dict[str, Any]) -> tuple[int, dict[int, bytes]]:
        """Start the command; return the descriptor of its input and {descriptor: letter} of its outputs."""
        env = {**os.environ, **request.get("env", {})}
        argv, cwd, window = request["argv"], request.get("cwd", "/root"), request.get("tty")
        if not os.path.isdir(cwd):  # noqa: PTH112
            raise FileNotFoundError(2, f"no folder {cwd}")
        if window:
            self.pid, self.terminal = pty.fork()
            if self.pid == 0:
                self.become(argv, cwd, env)
            self.resize(window)
            return self.terminal, {self.terminal: b"O"}
        pipes = [os.pipe() for _ in range(3)]
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for target, (read, write) in enumerate(pipes):
                os.dup2(read if target == 0 else write, target)
            self.become(argv, cwd, env)
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = pipes
        for descriptor in (in_read, out_write, err_write):
            os.close(descriptor)
        return in_write, {out_read: b"O", err_read: b"E"}

    def become(self, argv: list[str], cwd: str, env: dict[str, str]) -> NoReturn:
        """The child: turn into the command."""
        try:
            for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT):  # ignored here, but not by the command
                signal.signal(number, signal.SIG_DFL)
            os.closerange(3, 64)
            os.chdir(cwd)
            os.execvpe(argv[0], argv, env)
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(127)

    def pump(self, stdin: int, streams: dict[int, bytes]) -> None:
        """Carry bytes both ways until the command has ended and its outputs are drained."""
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # installed so that an ending child wakes the select
        os.set_blocking(stdin, False)
        pending, closing = b"", False
        code, drained = None, 0.0
        while True:
            if code is None:
                code, drained = self.ended(), time.monotonic() + DRAIN_SECONDS
            if code is not None and (not streams or time.monotonic() > drained):
                break
            reading = [woken, *streams] + ([self.link] if len(pending) < 1 << 20 else [])
            ready, writable, _ = select.select(reading, [stdin] if pending else [], [], 30 if code is None else 0.1)
            if woken in ready:
                os.read(woken, 512)
            if self.link in ready:
                kind, payload = self.receive()
                if kind == b"W":
                    self.resize(json.loads(payload))
                pending += payload if kind == b"I" else b""
                closing = closing or kind == b"C"
            if writable:
                try:
                    pending = pending[os.write(stdin, pending) :]
                except BrokenPipeError:
                    pending = b""
            if closing and not pending:
                os.close(stdin)
                closing = False
            for descriptor in [stream for stream in streams if stream in ready]:
                try:
                    data = os.read(descriptor, 65536)
                except OSError:  # a terminal whose other end is closed
                    data = b""
                if data:
                    self.send(streams[descriptor], data)
                else:
                    del streams[descriptor]
        self.send(b"X", json.dumps({"code": code}).encode())

    def ended(self) -> int | None:
        """The command's exit status (negative: the signal), or None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def resize(self, size: list[int]) -> None:
        """Tell the command's terminal its [rows, columns]."""
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

    def send(self, kind: bytes, payload: bytes) -> None:
        """Send one frame."""
        self.link.sendall(kind + struct.pack("!I", len(payload)) + payload)

    def receive(self) -> tuple[bytes, bytes]:
        """The next frame; EOFError when the connection is gone."""
        header = self.exactly(5)
        return header[:1], self.exactly(struct.unpack("!I", header[1:])[0])

    def exactly(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        data = b""
        while len(data) < size:
            part = self.link.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data


if __name__ == "__main__":
    with open(sys.argv[1]) as handle:  # noqa: PTH123  (pathlib takes a while to import in a guest)
        main(handle.read().strip(), int(sys.argv[2]))
