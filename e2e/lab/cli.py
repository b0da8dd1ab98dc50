"""The lab's command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import cluster, components, images, kernels, report
from lab.errors import LabError
from lab.guest import Guest, run_in_guest

FAULTS = ("unplug", "plug", "cut-link", "restore-link", "isolate", "rejoin", "power-off", "power-on")


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

    up = commands.add_parser("up", help="bring a cluster up, or say that it is up")
    _name(up)
    _kernel(up)
    up.add_argument("--nodes", type=int, default=3, help="number of nodes (default 3)")
    up.add_argument("--disks", type=int, default=2, help="NVMe disks of each node (default 2)")
    up.add_argument("--disk-size", type=int, default=2048, metavar="MIB", help="of each, sparse (default 2048)")
    up.add_argument("--memory", type=int, default=1536, metavar="MIB", help="of each node (default 1536)")
    up.add_argument(
        "--image", type=Path, action="append", default=[], help="a further OCI archive to bake in (repeatable)"
    )
    up.add_argument("--bare", action="store_true", help="without Millpond's own image")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="end everything of a lab and remove its folder")
    _name(down)
    down.set_defaults(run=_down)

    status = commands.add_parser("status", help="nodes, disks, processes, ports and the kubeconfig's path")
    _name(status)
    status.set_defaults(run=_status)

    shell = commands.add_parser("shell", help="an interactive root shell on a node")
    _name(shell)
    shell.add_argument("node")
    shell.set_defaults(run=lambda arguments: cluster.load(arguments.name).node(arguments.node).agent.shell())

    execute = commands.add_parser("exec", help="run a command as root on a node")
    _name(execute)
    execute.add_argument("--timeout", type=float, default=60, metavar="SECONDS")
    execute.add_argument("node")
    execute.add_argument("argv", nargs="+", metavar="-- COMMAND")
    execute.set_defaults(run=_exec)

    kubectl = commands.add_parser("kubectl", help="kubectl as the cluster's administrator")
    _name(kubectl)
    kubectl.add_argument("argv", nargs=argparse.REMAINDER)
    kubectl.set_defaults(run=_kubectl)

    build = commands.add_parser("build", help="build programs of the cluster, or take them from the cache")
    build.add_argument("program", nargs="+", choices=components.PROGRAMS)
    build.set_defaults(run=_build)

    images_parser = commands.add_parser("images", help="build Millpond's container image, print the archive's path")
    images_parser.set_defaults(run=_images)

    load = commands.add_parser("load-image", help="import an OCI archive into the running nodes")
    _name(load)
    load.add_argument("archive", type=Path)
    load.set_defaults(run=_load_image)

    fault = commands.add_parser("fault", help=f"cause or undo a fault: {', '.join(FAULTS)}")
    _name(fault)
    fault.add_argument("what", choices=FAULTS)
    fault.add_argument("node")
    fault.add_argument("disk", nargs="?", help="for unplug and plug")
    fault.set_defaults(run=_fault)

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


def _name(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("LAB_NAME", "default")
    parser.add_argument("--name", default=default, help="of the lab ($LAB_NAME; several can run side by side)")


def _kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernel", choices=kernels.KERNELS, default=kernels.DEFAULT)


def _guest_options(parser: argparse.ArgumentParser) -> None:
    _kernel(parser)
    parser.add_argument("--disks", type=int, default=4, help="number of NVMe disks (default 4)")
    parser.add_argument("--disk-size", type=int, default=1024, metavar="MIB", help="of each, sparse (default 1024)")
    parser.add_argument("--memory", type=int, default=1536, metavar="MIB")


def _up(arguments: argparse.Namespace) -> int:
    lab = cluster.up(
        arguments.name,
        kernel=arguments.kernel,
        nodes=arguments.nodes,
        disks=arguments.disks,
        disk_mib=arguments.disk_size,
        mib=arguments.memory,
        archives=[*([] if arguments.bare else [images.millpond()]), *arguments.image],
    )
    print(report.status(lab))
    return 0


def _down(arguments: argparse.Namespace) -> int:
    cluster.down(arguments.name)
    return 0


def _build(arguments: argparse.Namespace) -> int:
    components.ensure_all(arguments.program)
    return 0


def _images(_: argparse.Namespace) -> int:
    print(images.millpond())
    return 0


def _load_image(arguments: argparse.Namespace) -> int:
    cluster.load(arguments.name).load_image(arguments.archive)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    print(report.status(cluster.load(arguments.name)))
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    agent = cluster.load(arguments.name).node(arguments.node).agent
    return agent.run(
        arguments.argv,
        seconds=arguments.timeout,
        stdin=b"" if sys.stdin.isatty() else sys.stdin.buffer,
        stdout=lambda data: os.write(1, data),
        stderr=lambda data: os.write(2, data),
        check=False,
    ).returncode


def _kubectl(arguments: argparse.Namespace) -> int:
    kubectl = components.ensure("kubectl")
    kubeconfig = cluster.load(arguments.name).kubeconfig
    os.execv(kubectl, [str(kubectl), "--kubeconfig", str(kubeconfig), *arguments.argv])


def _fault(arguments: argparse.Namespace) -> int:
    node = cluster.load(arguments.name).node(arguments.node)
    if arguments.what in ("unplug", "plug"):
        if not arguments.disk:
            raise LabError(
                f"{arguments.what} needs a disk", next_step=f"one of {', '.join(d.name for d in node.disks)}"
            )
        getattr(node, arguments.what)(arguments.disk)
    else:
        getattr(node, arguments.what.replace("-", "_"))()
    return 0


def _guest_run(arguments: argparse.Namespace) -> int:
    with _guest(arguments) as guest:
        return run_in_guest(guest, arguments.argv, seconds=arguments.timeout, out=arguments.out)


def _guest_shell(arguments: argparse.Namespace) -> int:
    with _guest(arguments) as guest:
        return guest.agent.shell()


def _guest(arguments: argparse.Namespace) -> Guest:
    return Guest(kernel=arguments.kernel, disks=arguments.disks, disk_mib=arguments.disk_size, mib=arguments.memory)
