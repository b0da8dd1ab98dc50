"""One look at a node, as plans see it, and what a state manager must remember between two looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from millpond_core import names
from millpond_core.model import VirtualVolume
from millpond_core.model.virtualvolume import Leg, LegReport, NodeReport
from millpond_core.observed import Array, Controller, DmDevice, Export, GateStatus, Label, LabelLeg
from millpond_core.units import parse_quantity, round_up


class DeviceSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed device of this node."""

    name: str
    """Of the StorageDevice."""
    device_uuid: str
    present: bool
    """It is there, answers, and its label is ours. False: Failed; the label is the last one read."""
    major_minor: str = ""
    path: str = ""
    label: Label | None = None

    def entry(self, volume: str, leg: str) -> LabelLeg | None:
        """What the label says of a leg (``volume`` is spec.uuid)."""
        return next((entry for entry in self.entries(volume) if entry.leg == leg), None)

    def entries(self, volume: str) -> tuple[LabelLeg, ...]:
        """What the label says of a volume's legs."""
        return self.label.of(volume) if self.label else ()


class LegMemory(msgspec.Struct, frozen=True, kw_only=True):
    """A leg in the array that stands here."""

    slot: int
    """Its place in the array, kept for it after it left: a delta is for the same place only (kernel-facts 14)."""
    incarnation: str = ""
    """The life of the leg that the path leads to."""
    synced: bool = False
    """It was in sync in this very array, and nothing but its absence happened to it since."""
    copied: bool = False
    """A rebuild of it was begun in this array."""
    delta: bool = False
    """The rebuild that was begun last copies only what it missed."""
    copying: bool = False
    """That rebuild was handed to md whole."""
    stopped: int = 0
    """How often in a row md ended one before it was complete."""
    again: float = 0.0
    """When the next is begun (CLOCK_BOOTTIME)."""


class ScrubMemory(msgspec.Struct, frozen=True, kw_only=True):
    """How far a comparison of the legs has come. In sectors of the array; a run is (first, behind the last)."""

    number: int = 0
    done: int = 0
    """Compared, from the start."""
    again: tuple[tuple[int, int], ...] = ()
    """Runs that differed, to be looked at once more in parts; the last is the next."""
    running: tuple[int, int] | None = None
    """The run that md is given."""
    handed: bool = False
    """It has it: a run that is over may be this one."""
    differs: bool = False
    """A part of it that md had compared before it was interrupted differed."""
    places: tuple[tuple[int, int], ...] = ()
    """Found, in the order of finding."""
    more: bool = False
    """There are more, and nobody looked where."""
    ended: bool = False


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What cannot be read from the kernel; kept under /run, so it goes when the kernel's state goes."""

    epoch: int = 0
    """Epoch of the stack that stands here; 0: none stands."""
    assembled: bool = False
    """The array runs and was told its dirty chunks. An array without this is half made: made again."""
    dirty: tuple[tuple[int, int], ...] = ()
    """Dirty chunks read from the legs before assembly, until assembled."""
    legs: dict[str, LegMemory] = {}
    built: dict[str, str] = {}
    """Leg dm on this node → the incarnation for which it was made."""
    confirmed: int = 0
    """Highest epoch confirmed: nothing older stands here, nor will again."""
    clean_epoch: int = 0
    ended_epoch: int = 0
    """Highest epoch whose stack is gone here, cleanly or not."""
    leaving: bool = False
    """The stack is being taken down: that is finished first, also when the volume is wanted here again."""
    broken: bool = False
    """This stack cannot or shall not go on: reads and writes fail until it is gone."""
    broken_why: str = ""
    """The reason, as people are told; empty: every leg in sync is in a new life."""
    generation: int = 0
    """Mapping generation in force here."""
    record_seq: int = 0
    max_rate: int = 0
    background: bool = False
    """What is limited to that yields to reads and writes."""
    scrub: ScrubMemory = ScrubMemory()
    longest_hold_ms: int = 0


def begun(epoch: int, legs: Mapping[str, LegMemory]) -> dict[str, Any]:
    """Changes of ``Memory`` as a stack begins under ``epoch``; with 0 and no legs: as one is gone."""
    blank = Memory()
    fields = ("assembled", "leaving", "broken", "broken_why", "dirty", "max_rate", "background")
    return {"epoch": epoch, "legs": dict(legs), **{field: getattr(blank, field) for field in fields}}


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """One look at this node's kernel."""

    boot_id: str
    dm: Mapping[str, DmDevice] = {}
    gates: Mapping[str, GateStatus] = {}
    """By dm name."""
    array: Array | None = None
    """The volume's."""
    controllers: Mapping[str, Controller] = {}
    """By NQN."""
    exports: Mapping[str, Export] = {}
    """By NQN."""
    devices: Mapping[str, DeviceSeen] = {}
    """By StorageDevice name; complete, or nothing is planned for legs."""


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What else a plan depends on."""

    node: str
    address: str
    """IP address on which this node exports."""
    host_nqn: str = ""
    host_id: str = ""
    attach_host_nqn: str = ""
    """Host NQN of the attach node; empty: not known yet."""
    port: int = names.NVME_PORT
    now: float = 0.0
    """CLOCK_BOOTTIME, seconds."""
    down_since: Mapping[str, float] = {}
    """Legs whose path was down at the last look → since when (CLOCK_BOOTTIME)."""
    failed_devices: frozenset[str] = frozenset()
    """StorageDevices anywhere whose observation says Failed."""
    gone_nodes: frozenset[str] = frozenset()
    """Nodes that the master has judged Failed, or that are shutting down, of legs that an attachment waits for."""
    cut_off: bool = False
    """All of this node's connections are down at once: perhaps it is our own network."""
    zeroing: frozenset[str] = frozenset()
    """Legs of this volume that are being zeroed right now."""
    connecting: frozenset[str] = frozenset()
    """NQNs that are being connected right now."""
    unrecorded_since: float | None = None
    """Since when the loss of a leg waits for its record (CLOCK_BOOTTIME); None: none does."""
    severing_since: float | None = None
    """Since when the front is being replaced by one that fails (CLOCK_BOOTTIME); None: it is not."""
    halted: bool = False
    """A quiescence wants long operations halted."""
    hold: bool = False
    """A quiescence wants reads and writes held, and its deadline has not passed."""
    ending: bool = False
    """The node is shutting down: what is attached here is taken down when its last user has gone, and its legs
    are taken back where another is in sync.
    """


def volume_bytes(volume: VirtualVolume) -> int:
    """Usable bytes: what the record says, else what the spec asks for in whole units."""
    return volume.status.mapped_bytes or round_up(parse_quantity(volume.spec.size))


def node_report(volume: VirtualVolume, node: str) -> NodeReport | None:
    """What ``node`` last said of the volume."""
    return next((report for report in volume.status.nodes if report.node == node), None)


def leg_report(volume: VirtualVolume, leg: Leg) -> LegReport | None:
    """What the leg's node last said of it."""
    report = node_report(volume, leg.node)
    return next((r for r in report.legs if r.id == leg.id), None) if report else None
