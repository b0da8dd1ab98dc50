"""The lab's command line."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import kernels
from lab.errors import LabError
from lab.guest import Guest, run_in_guest


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 1 with an explanation when the lab cannot do it, 130 when interrupted."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that whatever was begun is taken back
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        return code
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="Real kernels and a real cluster on one machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    guest = commands.add_parser("guest-run", help="run a command in a single guest without Kubernetes")
    _guest_options(guest)
    guest.add_argument("--timeout", type=float, default=1200, metavar="SECONDS", help="for the command (default 1200)")
    guest.add_argument("--out", type=Path, help="folder that gets what the command leaves in /out, and the console log")
    guest.add_argument("argv", nargs="+", metavar="-- COMMAND", help="runs as root at /repo, a copy of the work tree")
    guest.set_defaults(run=_guest_run)

    shell = commands.add_parser("guest-shell", help="an interactive shell in such a guest; it ends with the shell")
    _guest_options(shell)
    shell.set_defaults(run=_guest_shell)
    return parser


def _guest_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernel", choices=kernels.KERNELS, default=kernels.DEFAULT)
    parser.add_argument("--disks", type=int, default=4, help="number of NVMe disks (default 4)")
    parser.add_argument("--disk-size", type=int, default=1024, metavar="MIB", help="of each, sparse (default 1024)")
    parser.add_argument("--memory", type=int, default=1536, metavar="MIB")


def _guest_run(arguments: argparse.Namespace) -> int:
    with _guest(arguments) as guest:
        return run_in_guest(guest, arguments.argv, seconds=arguments.timeout, out=arguments.out)


def _guest_shell(arguments: argparse.Namespace) -> int:
    with _guest(arguments) as guest:
        return guest.agent.shell()


def _guest(arguments: argparse.Namespace) -> Guest:
    return Guest(kernel=arguments.kernel, disks=arguments.disks, disk_mib=arguments.disk_size, mib=arguments.memory)
