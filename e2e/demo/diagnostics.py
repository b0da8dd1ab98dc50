"""What an engineer wants to see after a failure, in files: objects, logs, and each node's kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from demo.cluster import KINDS, Cluster
from demo.errors import DemoError
from demo.faults import Faults
from demo.install import NAMESPACE, container_states
from lab.errors import LabError

KERNEL = """
exec 2>&1
run() { echo; echo "## $*"; timeout 20 "$@"; }
run uname -a; run lsblk; run dmsetup ls --tree; run dmsetup info -c; run dmsetup table; run dmsetup status
cd /sys/block
for array in md*; do
    [ -d "$array/md" ] || continue
    echo; echo "## $array"
    (cd "$array/md" && timeout 20 grep -s . array_state sync_action sync_completed degraded raid_disks mismatch_cnt \
        metadata_version component_size bitmap/* dev-*/state dev-*/slot dev-*/recovery_start dev-*/errors)
done
run cat /proc/mdstat; run nvme list-subsys; run find /sys/kernel/config/nvmet -maxdepth 4
run ls -laR /run/millpond; run mount; run free -m
run dmesg --time-format iso
run journalctl -b --no-pager -n 400 -u kubelet -u containerd
"""


def save_objects(cluster: Cluster, folder: Path) -> None:
    """``kubectl get snode,sdev,vvol,qui`` as people see it, and the objects whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "get.txt", lambda: cluster.kubectl("get", "snode,sdev,vvol,qui"))
    for plural in KINDS:
        save(folder / f"{plural}.yaml", lambda plural=plural: cluster.kubectl("get", plural, "-o", "yaml"))


def collect(cluster: Cluster, faults: Faults, folder: Path) -> None:
    """Everything, one file each; what cannot be had says why in its file."""
    save_objects(cluster, folder)
    save(folder / "pods.txt", lambda: cluster.kubectl("get", "pods,pvc,pv,volumeattachments", "-A", "-o", "wide"))
    save(folder / "pods-described.txt", lambda: cluster.kubectl("describe", "pods", "-A"))
    save(folder / "events.txt", lambda: cluster.kubectl("get", "events", "-A", "--sort-by=.metadata.creationTimestamp"))
    try:
        pods = cluster.items("pods", "-n", NAMESPACE)
        nodes = cluster.items("nodes")
    except DemoError as error:
        (folder / "collecting-failed.txt").write_text(f"{error}\n")
        return
    for pod in pods:
        name = pod["metadata"]["name"]
        for state in container_states(pod):
            container = state["name"]
            argv = ("logs", "-n", NAMESPACE, name, "-c", container, "--timestamps")
            save(folder / "logs" / f"{name}-{container}.log", lambda argv=argv: cluster.kubectl(*argv))
            if state["restartCount"]:
                before = (*argv, "--previous")
                save(folder / "logs" / f"{name}-{container}-previous.log", lambda argv=before: cluster.kubectl(*argv))
    for node in (each["metadata"]["name"] for each in nodes):
        save(
            folder / "nodes" / f"{node}.txt",
            lambda node=node: faults.run(node, "sh", "-c", KERNEL, seconds=180, check=False),
        )


def save(path: Path, text: Callable[..., str]) -> None:
    """Write what ``text`` gives, or why it is not to be had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.write_text(text())
    except (DemoError, LabError, OSError) as error:
        path.write_text(f"not to be had: {error}\n")
