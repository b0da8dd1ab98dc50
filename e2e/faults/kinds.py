"""What can be done to the field: each kind of fault, how it begins, how long it stays, how it is undone.

A kind acts on the *target* that the case names: a node, by its role in the volume at that moment. Undoing must work
whatever became of the field meanwhile, and twice.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from faults.field import DISKS, Field
from faults.volume import GRACE_SECONDS, Volume
from millpond_core import names
from millpond_core.units import MIB

SMALLEST_MIB = 4
"""Of a volume, and what a leg has beside: sizes are rounded up to it."""

Role = Literal["attach", "leg", "other", "plane"]
"""The node where the volume is attached; a node with a remote leg; the third node; the control plane."""


@dataclass(frozen=True)
class Strike:
    """One fault at work: where, on which disk."""

    field: Field
    volume: Volume
    node: str
    disk: str


Act = Callable[[Strike], object]


@dataclass(frozen=True)
class Kind:
    """A kind of fault."""

    name: str
    roles: tuple[Role, ...]
    seconds: tuple[float, ...]
    """How long it may stay; one is drawn."""
    begin: Act
    undo: Act
    ends_pods: bool = False
    """Whether pods on the target, and they alone, may lose the volume or their lives: they are begun anew, as their
    controller would.
    """
    since: int = 1
    """The first seed that it takes part in (``plan``)."""


def _nothing(_: Strike) -> None:
    """It undoes itself."""


def _netem(how: str) -> Act:
    def act(strike: Strike) -> None:
        nic = "$(grep -l 52:54:00:bb /sys/class/net/*/address | cut -d/ -f5)"
        strike.field.run(strike.node, "sh", "-c", f"tc qdisc replace dev {nic} root {how}")

    return act


def _send(program: str, number: signal.Signals) -> Act:
    return lambda strike: strike.field.signal_program(strike.node, program, number)


def _plane(process: str, number: signal.Signals) -> Act:
    return lambda strike: strike.field.signal_process(process, number)


def _nvmet(script: str) -> Act:
    """A script on the target, in the folder of each of the volume's subsystems (empty folders: it exports none)."""

    def act(strike: Strike) -> None:
        pattern = f"{names.NQN_PREFIX}{strike.volume.uuid}*"
        each = (
            f'for s in /sys/kernel/config/nvmet/subsystems/{pattern}; do [ -d "$s" ] || continue; {script}; done; true'
        )
        strike.field.run(strike.node, "sh", "-c", each)

    return act


def _clock(seconds: int) -> Act:
    return lambda strike: strike.field.run(strike.node, "date", "-s", f"@{time.time() + seconds:.3f}")


def _reboot(late: float) -> Act:
    def act(strike: Strike) -> None:
        strike.field.power_off(strike.node)
        time.sleep(1)
        strike.field.power_on(strike.node, late=late)

    return act


def _contend(strike: Strike) -> None:
    """Others write to the object all the time: whoever patches with a test of what it read loses."""
    for number in range(40):
        body = {"metadata": {"annotations": {"faults.millpond.io/contended": str(number)}}}
        strike.field.merge("virtualvolumes", strike.volume.name, body)
        time.sleep(0.05)


def _restart_operator(strike: Strike) -> None:
    strike.field.end_operator()
    strike.field.start_operator()


def _second_operator(strike: Strike) -> None:
    strike.field.start_operator("operator-2")
    strike.field.signal_process("operator", signal.SIGSTOP)


def _no_second_operator(strike: Strike) -> None:
    strike.field.signal_process("operator", signal.SIGCONT)
    strike.field.end_operator("operator-2")


def _throttle(iops: int) -> Act:
    def act(strike: Strike) -> None:
        for disk in DISKS:
            strike.field.throttle(strike.node, disk, iops)

    return act


def _break_leg(line: str) -> Act:
    """Tables of the legs there are replaced, each ``line`` as awk makes another of it; its fields begin with start,
    sectors, target, device, offset.
    """

    def act(strike: Strike) -> None:
        for name in _legs(strike):
            keep = f"dmsetup table {name} >/run/{name}.table"
            swap = f"awk '{line}' /run/{name}.table | dmsetup load {name}"
            strike.field.run(strike.node, "sh", "-ec", f"{keep}; {swap}; {_INTO_FORCE.format(name=name)}")

    return act


def _delay_leg(seconds: float) -> Act:
    """Each read, write and flush of a leg takes so much longer."""
    return _break_leg(f'{{print $1, $2, "delay", $4, $5, {seconds * 1000:.0f}}}')


def _mend_leg(strike: Strike) -> None:
    for name in _legs(strike):
        swap = f"dmsetup load {name} /run/{name}.table; {_INTO_FORCE.format(name=name)}"
        there = f"[ -f /run/{name}.table ] && dmsetup info {name} >/dev/null 2>&1"
        script = f"if {there}; then {swap}; rm /run/{name}.table; fi"
        strike.field.run(strike.node, "sh", "-ec", script)


_INTO_FORCE = "dmsetup suspend --noflush --nolockfs {name}; dmsetup resume {name}"


def _with_a_leg_node(strike: Strike) -> tuple[str, ...]:
    """The node that is struck and another that has a leg."""
    others = {leg["node"] for leg in strike.volume.legs()} - {strike.node}
    return (strike.node, *sorted(others)[:1])


# Hosts that are connected stay so when they are allowed no more. Taking the export off its port cuts them, and they are
# refused when they come again.
_REFUSE = (
    "rm -f $s/allowed_hosts/*; for l in /sys/kernel/config/nvmet/ports/*/subsystems/${s##*/}; do "
    "if [ -L $l ]; then rm -f $l; ln -s $s $l; fi; done"
)


def _room(field: Field) -> dict[str, int]:
    """MiB that are free on each device in service that a leg fits on."""
    online = [each for each in field.items("storagedevices") if each["status"].get("phase") == "Online"]
    free = {each["metadata"]["name"]: each["status"].get("freeBytes", 0) // MIB for each in online}
    return {name: mib for name, mib in free.items() if mib > SMALLEST_MIB}


def _fill_one(strike: Strike, room: dict[str, int]) -> None:
    """The device with the most room: a leg goes there, and fills it together with its bitmap."""
    strike.volume.make_another(f"fills-{len(room)}", mib=max(room.values()) - SMALLEST_MIB, copies=1)

    def missing() -> str:
        left = _room(strike.field)
        return "" if len(left) < len(room) else f"MiB free: {left}"

    strike.volume.wait(missing, "one device more is full", seconds=60)


def _pull_with_a_full_pool(strike: Strike) -> None:
    """The lost leg is wanted elsewhere at once, and nowhere is room for it."""
    while room := _room(strike.field):
        _fill_one(strike, room)
    strike.volume.set_grace(0)
    strike.field.unplug(strike.node, strike.disk)


def _room_again(strike: Strike) -> None:
    strike.field.plug(strike.node, strike.disk)
    strike.volume.delete_others()
    strike.volume.set_grace(GRACE_SECONDS)


def _legs(strike: Strike) -> list[str]:
    """dm names of the volume's legs on the node that is struck."""
    return [names.leg(strike.volume.uuid, leg["id"]) for leg in strike.volume.legs() if leg["node"] == strike.node]


STAYS = (1.0, 5.0, 20.0)

KINDS = (
    # disks
    Kind(
        "disk pulled",
        ("attach", "leg", "other"),
        (3.0, 20.0),
        lambda s: s.field.unplug(s.node, s.disk),
        lambda s: s.field.plug(s.node, s.disk),
    ),
    Kind(
        "disk slow",
        ("attach", "leg"),
        (5.0, 40.0),
        _throttle(4),
        _throttle(0),
    ),
    Kind("disk pulled, the pool full", ("attach", "leg"), (20.0,), _pull_with_a_full_pool, _room_again),
    Kind("leg answers errors", ("attach", "leg"), (5.0,), _break_leg('{print $1, $2, "error"}'), _mend_leg),
    Kind(
        "half of a leg answers errors",
        ("attach", "leg"),
        (5.0,),
        _break_leg('{h = int($2 / 16) * 8; print $1, h, $3, $4, $5; print $1 + h, $2 - h, "error"}'),
        _mend_leg,
    ),
    Kind(
        "leg refuses writes",
        ("attach", "leg"),
        (5.0,),
        _break_leg('{print $1, $2, "flakey", $4, $5, 0, 3600, 1, "error_writes"}'),
        _mend_leg,
    ),
    # links
    Kind(
        "storage link cut",
        ("attach", "leg", "other"),
        (1.0, 5.0, 20.0, 60.0, 360.0),
        lambda s: s.field.link(s.node, lan=False),
        lambda s: s.field.link(s.node, lan=True),
    ),
    Kind("storage link one way", ("attach", "leg"), STAYS, _netem("netem loss 100%"), _netem("pfifo")),
    Kind("storage link lossy", ("attach", "leg"), (20.0,), _netem("netem loss 20%"), _netem("pfifo")),
    Kind("storage link late", ("attach", "leg"), (20.0,), _netem("netem delay 200ms 100ms"), _netem("pfifo")),
    Kind(
        "API server out of a node's reach",
        ("attach", "leg", "other"),
        (5.0, 30.0),
        lambda s: s.field.link(s.node, wan=False),
        lambda s: s.field.link(s.node, wan=True),
        ends_pods=True,
    ),
    Kind(
        "node cut off",
        ("attach", "leg", "other"),
        (5.0, 40.0),
        lambda s: s.field.link(s.node, lan=False, wan=False),
        lambda s: s.field.link(s.node, lan=True, wan=True),
        ends_pods=True,
    ),
    # exports
    Kind(
        "namespace disabled",
        ("leg",),
        (1.0, 10.0),
        _nvmet("for n in $s/namespaces/*; do echo 0 >$n/enable; done"),
        _nothing,
    ),
    Kind(
        "namespace with another identity",
        ("leg",),
        (1.0, 10.0),
        _nvmet(
            "for n in $s/namespaces/*; do echo 0 >$n/enable; "
            "cat /proc/sys/kernel/random/uuid >$n/device_uuid; echo 1 >$n/enable; done"
        ),
        _nothing,
    ),
    Kind("host refused", ("leg",), (10.0,), _nvmet("rm -f $s/allowed_hosts/*"), _nothing),
    Kind(
        "export gone",
        ("leg",),
        (1.0, 10.0),
        _nvmet("rm -f /sys/kernel/config/nvmet/ports/*/subsystems/${s##*/}"),
        _nothing,
    ),
    # processes on a node
    Kind("state manager killed", ("attach", "leg", "other"), (1.0,), _send("state-manager", signal.SIGKILL), _nothing),
    Kind(
        "state manager stopped",
        ("attach", "leg", "other"),
        (5.0, 30.0),
        _send("state-manager", signal.SIGSTOP),
        _send("state-manager", signal.SIGCONT),
    ),
    Kind("watchdog killed", ("attach",), (1.0,), _send("watchdog", signal.SIGKILL), _nothing),
    Kind("clock ahead", ("attach", "leg"), (10.0,), _clock(7200), _clock(0)),
    Kind("clock behind", ("attach", "leg"), (10.0,), _clock(-7200), _clock(0)),
    # machines
    Kind(
        "node frozen",
        ("attach", "leg", "other"),
        (5.0, 40.0),
        lambda s: s.field.pause(s.node),
        lambda s: s.field.resume(s.node),
        ends_pods=True,
    ),
    Kind(
        "node without power",
        ("attach", "leg", "other"),
        (5.0, 60.0),
        lambda s: s.field.power_off(s.node),
        lambda s: s.field.power_on(s.node),
        ends_pods=True,
    ),
    Kind("node rebooted", ("attach", "leg"), (0.0,), _reboot(0.0), _nothing, ends_pods=True),
    Kind("node rebooted, exports late", ("leg",), (0.0,), _reboot(30.0), _nothing, ends_pods=True),
    Kind(
        "every node without power",
        ("attach",),
        (2.0,),
        lambda s: s.field.power_off(*s.field.nodes),
        lambda s: s.field.power_on(*s.field.nodes),
        ends_pods=True,
    ),
    # the control plane
    Kind("operator killed", ("plane",), (1.0,), _restart_operator, _nothing),
    Kind(
        "operator stopped",
        ("plane",),
        (5.0, 30.0),
        _plane("operator", signal.SIGSTOP),
        _plane("operator", signal.SIGCONT),
    ),
    Kind(
        "two operators, the leader stopped",
        ("plane",),
        (40.0,),
        _second_operator,
        _no_second_operator,
    ),
    Kind(
        "API server stopped",
        ("plane",),
        (5.0, 60.0),
        _plane("kube-apiserver", signal.SIGSTOP),
        _plane("kube-apiserver", signal.SIGCONT),
    ),
    Kind("etcd stopped", ("plane",), (5.0, 20.0), _plane("etcd", signal.SIGSTOP), _plane("etcd", signal.SIGCONT)),
    Kind("record contended", ("plane",), (0.0,), _contend, _nothing),
    # from seed 2 on
    Kind(
        "storage link one way for long",
        ("attach", "leg"),
        (60.0, 360.0),
        _netem("netem loss 100%"),
        _netem("pfifo"),
        since=2,
    ),
    Kind("leg late by 0.1 s", ("attach", "leg"), (20.0,), _delay_leg(0.1), _mend_leg, since=2),
    Kind("leg late by 5 s", ("attach", "leg"), (20.0,), _delay_leg(5), _mend_leg, since=2),
    Kind("leg late by 40 s", ("attach", "leg"), (60.0,), _delay_leg(40), _mend_leg, since=2),
    Kind("host cut and refused", ("leg",), (10.0,), _nvmet(_REFUSE), _nothing, since=2),
    Kind(
        "attach node and a leg node without power",
        ("attach",),
        (5.0, 60.0),
        lambda s: s.field.power_off(*_with_a_leg_node(s)),
        lambda s: s.field.power_on(*s.field.nodes),
        ends_pods=True,
        since=2,
    ),
)
