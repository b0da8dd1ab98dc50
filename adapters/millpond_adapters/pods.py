"""Whose a device is: the pods that the kubelet has given it to, and an end to their processes through their cgroups.

A volume is a pod's if the host has it mounted, or its node bound, under a path that the kubelet makes for that pod:
``…/pods/UID/…`` for filesystems and their subpaths, ``…/volumeDevices/…/UID`` for raw block. On a node that shuts down
those mounts go first, so it is a pod's too if one of its processes has it mounted, or open. A write to ``cgroup.kill``
(cgroup v2, Linux 5.14) signals every process below at once, also those that are just being forked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from millpond_adapters import sysfs
from millpond_adapters.mounts import parse_mountinfo
from millpond_core.errors import NotFound

log = logging.getLogger(__name__)

_UID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_GIVEN = re.compile(f"/(?:pods|volumeDevices/.+)/({_UID})(?:/|$)")
_KUBELETS = re.compile(f"{_GIVEN.pattern}|/globalmount$")
_CGROUP = re.compile(f"(?:^|-)pod({_UID.replace('-[', '[-_][')})(?:\\.slice)?$")
"""The kubelet's names: ``podUID`` by cgroupfs, ``kubepods-QOS-podUID.slice`` with underscores by systemd."""


class PodProcesses:
    """The port ``Pods``. ``proc`` and ``sys`` are the host's."""

    def __init__(self, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> None:
        self._proc = proc
        self._sys = sys

    async def kill(self, major_minor: str) -> Sequence[str]:
        given = await asyncio.to_thread(self._given, major_minor)
        cgroups = await asyncio.to_thread(self._cgroups)
        given |= await asyncio.to_thread(self._have, major_minor, cgroups)
        if given and not cgroups:
            raise NotFound(
                f"pods {', '.join(sorted(given))} use {major_minor}, but no pod on this node has a cgroup (v2) of its "
                "own: their processes cannot be told from others, so they are not ended and what they wait for stays "
                "held; reboot the node to end it"
            )
        killed = []
        for uid in sorted(given & cgroups.keys()):
            with contextlib.suppress(NotFound):
                await sysfs.write(cgroups[uid] / "cgroup.kill", "1")
                killed.append(uid)
                log.warning("pod %s: killed, it waits for %s", uid, major_minor)
        return killed

    def _given(self, major_minor: str) -> set[str]:
        block = (self._sys / "dev" / "block" / major_minor).resolve()
        # Where udev does not see to it, what lies below /dev/mapper are nodes of their own.
        nodes = {f"/{block.name}", f"/mapper/{sysfs.peek(block / 'dm' / 'name')}"}
        found = set()
        for mount in parse_mountinfo((self._proc / "1" / "mountinfo").read_text()):
            raw = mount.fs_type == "devtmpfs" and mount.root in nodes
            if (raw or mount.major_minor == major_minor) and (given := _GIVEN.search(mount.target)):
                found.add(given[1])
        return found

    def _have(self, major_minor: str, cgroups: Mapping[str, Path]) -> set[str]:
        """Pods of which a process has it as its own: not as part of a view of the host's mounts, as drivers have."""
        found = set()
        for uid, folder in cgroups.items():
            pids = set(_processes(folder))
            if str(os.getpid()) in pids:
                continue  # our own pod: whoever has it open here acts for us
            for pid in pids:
                with contextlib.suppress(OSError):  # it has just ended
                    if self._mounted(pid, major_minor) or self._opened(pid, major_minor):
                        found.add(uid)
                        break
        return found

    def _mounted(self, pid: str, major_minor: str) -> bool:
        mounts = parse_mountinfo((self._proc / pid / "mountinfo").read_text())
        return any(m.major_minor == major_minor and not _KUBELETS.search(m.target) for m in mounts)

    def _opened(self, pid: str, major_minor: str) -> bool:
        """As a block device. Nothing but what lies in its /dev is looked at: a file elsewhere may never answer."""
        for handle in (self._proc / pid / "fd").iterdir():
            with contextlib.suppress(OSError):  # it has just been closed
                if str(handle.readlink()).startswith("/dev/") and sysfs.number_of(handle) == major_minor:
                    return True
        return False

    def _cgroups(self) -> dict[str, Path]:
        """uid → the pod's cgroup; a pod without one among others that have one has no process left."""
        found = {}
        for folder, below, files in os.walk(self._sys / "fs" / "cgroup"):
            if "cgroup.kill" in files and (pod := _CGROUP.search(Path(folder).name)):
                found[pod[1].replace("_", "-")] = Path(folder)
                below.clear()
        return found


def _processes(cgroup: Path) -> Iterator[str]:
    """Ids of those in it and below."""
    for folder, _, files in os.walk(cgroup):
        if "cgroup.procs" in files:
            yield from (Path(folder) / "cgroup.procs").read_text().split()
