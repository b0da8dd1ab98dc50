"""What a node has that a bare guest has not: the Kubernetes programs in its root, and its own files in the seed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import cache, components, debian, paths, seed
from lab.command import run
from lab.controlplane import POD_RANGE
from lab.noderecord import NodeRecord, address, pods
from lab.progress import step

PROGRAMS = ("kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr")
FILES = paths.GUEST_FILES / "node"
UNITS = ("lab-setup", "lab-agent", "containerd", "kubelet", "kube-proxy")
# Units of a stock Debian that only cost time in a guest that lives for an hour.
MASKED = (
    "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer",
    "e2scrub_reap.service getty@tty1.service serial-getty@ttyS0.service systemd-journal-flush.service",
    "systemd-update-utmp.service systemd-pstore.service nvmefc-boot-connections.service nvmf-autoconnect.service",
    "systemd-logind.service systemd-user-sessions.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount",
    "modprobe@drm.service modprobe@fuse.service modprobe@loop.service modprobe@efi_pstore.service",
    "sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount sys-kernel-tracing.mount",
    "systemd-random-seed.service systemd-ask-password-console.path systemd-ask-password-wall.path",
)


def disk() -> Path:
    """The image that nodes boot through an overlay: the guests' root with the Kubernetes programs in it."""
    programs = components.ensure_all(PROGRAMS)
    system = debian.root()

    def build(scratch: Path) -> None:
        with step("Making the nodes' disk image", usually=15):
            root = scratch / "root"
            # Hard links: nothing below changes a file in place.
            run(["cp", "-al", system / "root", root], seconds=300)
            for name, program in programs.items():
                run(["install", "-m", "755", program, root / "usr/local/bin" / name], seconds=60)
            (root / "etc/fstab").unlink(missing_ok=True)
            debian.make_ext4(scratch / "disk.img", root, gib=8)
            cache.remove(root)

    key = cache.key(system.name, *(str(path) for path in programs.values()), "1")
    return cache.entry("node-disk", key, build) / "disk.img"


def write_seed(target: Path, node: NodeRecord, *, secrets: Mapping[str, Path], others: Sequence[int]) -> None:
    """The seed of a node; ``secrets`` are files of ``/etc/kubernetes``, ``others`` the other nodes' numbers."""
    number, machine = node.number, uuid.UUID(node.machine)
    files = seed.agent_files(node.name, node.token)
    for path in sorted(FILES.rglob("*")):
        if path.is_file():
            files[str(path.relative_to(FILES))] = path.read_bytes()
    for secret, path in secrets.items():
        files[f"etc/kubernetes/{secret}"] = path.read_bytes()
    routes = " ".join(f"{pods(other)}@{address(other)}" for other in others)
    env = {"NODE": node.name, "ADDRESS": node.address, "PODS": POD_RANGE, "ROUTES": f'"{routes}"'}
    files |= {
        "etc/kubernetes/node.env": "".join(f"{key}={value}\n" for key, value in env.items()),
        "etc/kubernetes/kubelet.yaml": json.dumps(_kubelet(node.kubelet_port), indent=1),
        "etc/cni/net.d/10-lab.conflist": json.dumps(_network(number), indent=1),
        "etc/machine-id": machine.hex + "\n",
        "etc/nvme/hostid": f"{machine}\n",
        "etc/nvme/hostnqn": f"nqn.2014-08.org.nvmexpress:uuid:{machine}\n",
        "etc/resolv.conf": "# no name service in the lab\n",
        "etc/fstab": "/dev/vdc /var/lib/containerd ext4 noatime 0 0\n",
        # newer than /usr: nothing to update at the first boot
        "etc/.updated": "",
        "var/.updated": "",
    }
    wants = "etc/systemd/system/multi-user.target.wants"
    links = {f"{wants}/{unit}.service": f"/etc/systemd/system/{unit}.service" for unit in UNITS}
    links |= {f"etc/systemd/system/{unit}": "/dev/null" for line in MASKED for unit in line.split()}
    links["etc/systemd/system/default.target"] = "/lib/systemd/system/multi-user.target"
    seed.write(target, files, links=links)


def _kubelet(port: int) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "port": port,
        # Not through systemd: that takes an emulated core's time.
        "cgroupDriver": "cgroupfs",
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": "/etc/kubernetes/kubelet.crt",
        "tlsPrivateKeyFile": "/etc/kubernetes/kubelet.key",
        "clusterDomain": "cluster.local",
        "failSwapOn": False,
        "runtimeRequestTimeout": "10m",
        "resolvConf": "/etc/resolv.conf",
    }


def _network(number: int) -> dict[str, object]:
    addresses = {"type": "host-local", "ranges": [[{"subnet": pods(number)}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipam": addresses}
    return {
        "cniVersion": "1.0.0",
        "name": "lab",
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }
