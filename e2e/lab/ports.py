"""Free ports of the loopback. Whoever uses them tries again with others, or says so, when somebody was quicker."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

# Below what the kernel gives to outgoing connections, which could take a port between our look and its use.
_RANGE = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """That many different TCP ports that nobody listens on now."""
    with ExitStack() as stack:
        return [_bound(stack, socket.SOCK_STREAM, "127.0.0.1") for _ in range(count)]


def free_udp_port() -> int:
    """A UDP port that nobody is bound to now, on any address."""
    with ExitStack() as stack:
        return _bound(stack, socket.SOCK_DGRAM, "")


def free_lan() -> str:
    """A multicast group and port (``group:port``) for a LAN of machines that nobody else is on."""
    return f"230.{random.randrange(256)}.{random.randrange(256)}.1:{free_udp_port()}"


def _bound(stack: ExitStack, kind: socket.SocketKind, address: str) -> int:
    """A port that is bound until the stack unwinds."""
    while True:
        port = random.choice(_RANGE)
        probe = stack.enter_context(socket.socket(socket.AF_INET, kind))
        try:
            probe.bind((address, port))
        except OSError:
            continue
        return port
