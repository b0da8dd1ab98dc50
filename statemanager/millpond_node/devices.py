"""The node's disks: found, claimed or refused, watched, and reported."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable

import msgspec

from millpond_adapters.herald import Herald
from millpond_core.errors import Conflict, DeadlineExceeded, Invalid, MillpondError, Unavailable
from millpond_core.instants import stamp
from millpond_core.model import ObjectMeta, StorageDevice
from millpond_core.model.storagedevice import (
    DeviceObservation,
    DiskWarning,
    Identity,
    PresenceState,
    StorageDeviceSpec,
    StorageDeviceStatus,
)
from millpond_core.model.storagenode import Disk
from millpond_core.nodeplan import claim, label
from millpond_core.nodeplan.claim import Claim, DiskSeen
from millpond_core.nodeplan.view import DeviceSeen
from millpond_core.observed import BlockDisk, Label, LabelLeg
from millpond_node.host import Config, Ports
from millpond_node.writer import Writer

log = logging.getLogger(__name__)
_ERRORS = 2
"""So many errors in a row, and a disk is taken for dead."""
_SILENT_SECONDS = 30.0
"""A disk that has answered nothing for so long is taken for dead. The kernel's own limits turn a dead one into errors,
or take it away, sooner; what is merely slow must not look like a power loss to all who have a leg on it."""


_WARNING_SECONDS = 60.0
"""How often disks are asked for their health: it changes over weeks, and a firmware may be slow to tell it."""


class Devices:
    """Keeps ``seen``, what volumes may use, in step with the disks; tells ``changed`` the devices that changed."""

    def __init__(
        self, ports: Ports, config: Config, *, writer: Writer, herald: Herald, changed: Callable[[set[str]], None]
    ) -> None:
        self._ports, self._config, self._writer, self._herald, self._changed = ports, config, writer, herald, changed
        self._boot_id = config.boot_id()
        self.cluster = ""
        """UID of the cluster, set before the first refresh."""
        self.objects: dict[str, StorageDevice] = {}
        self.seen: dict[str, DeviceSeen] = {}
        self.free: list[Disk] = []
        self.ready = False
        """Every StorageDevice was looked at once: plans may rely on ``seen``."""
        self._disks: dict[tuple[str, int], DiskSeen] = {}
        self._observed: dict[str, DeviceObservation] = {}
        self._checked: dict[str, float] = {}
        self._warnings: dict[tuple[str, int], tuple[float, list[DiskWarning] | None]] = {}
        """What disks say of their health, None: nothing yet; and when they were asked last (CLOCK_BOOTTIME)."""
        self._errors: dict[str, int] = {}
        """How often in a row a disk answered with an error."""
        self._silent_since: dict[str, float] = {}
        """Disks that have not answered yet → since when (CLOCK_BOOTTIME)."""
        self._unclear = False
        """A disk was too slow to tell what it is: none is taken for gone."""
        self._lock = asyncio.Lock()

    # --- the disks ---

    async def refresh(self) -> None:
        """Look at all disks, act on what they are to their StorageDevices, report. One at a time."""
        async with self._lock:
            await self._look()
            before = dict(self.seen)
            for name in sorted(self.objects):
                await self._one(self.objects[name], known=True)
            for device in self._unknown():
                await self._one(device, known=False)
            self.free = claim.unclaimed(list(self._disks.values()), self.objects.values())
            self.ready = self.ready or not self._unclear
        changed = {name for name in before.keys() | self.seen.keys() if before.get(name) != self.seen.get(name)}
        if changed:
            self._changed(changed)

    def changed(self, kernel_name: str) -> None:
        """The kernel says that something happened to a disk: look at it anew, unless it is ours.

        Each write of a label makes such an event, and what lies on a claimed disk changes through us alone.
        """
        for key in [key for key, seen in self._disks.items() if key[0] == kernel_name and seen.label is None]:
            del self._disks[key]

    async def _look(self) -> None:
        self._unclear = False
        disks = await self._ports.block.disks()
        now = self._ports.clock.boottime()
        known, self._disks = self._disks, {}
        for name, disk in disks.items():
            seen = known.get((name, disk.diskseq))
            if seen is None or (seen.disk.holders != disk.holders and seen.label is None):
                seen = await self._patiently(disk)
                if seen is None:
                    continue
                self._checked[name] = now
            else:
                seen = msgspec.structs.replace(seen, disk=disk)
            self._disks[name, disk.diskseq] = seen
        due = [
            key
            for key, seen in self._disks.items()
            if (seen.label is not None or not seen.alive)
            and now - self._checked.get(key[0], 0.0) >= self._config.alive_seconds
        ]
        answers = await asyncio.gather(*(self._alive(self._disks[key].disk.path) for key in due))
        for key, alive in zip(due, answers, strict=True):
            name, seen = key[0], self._disks[key]
            self._checked[name] = now
            if alive is None:
                self._checked[name] = now - self._config.alive_seconds
                if self._silent_too_long(name):
                    self._disks[key] = msgspec.structs.replace(seen, alive=False)
                continue
            self._silent_since.pop(name, None)
            if alive and not seen.alive:
                self._disks[key] = await self._patiently(seen.disk) or seen
            elif alive:
                self._errors.pop(name, None)
            else:
                # Once is not enough: giving up a disk costs a rebuild.
                self._errors[name] = self._errors.get(name, 0) + 1
                self._checked[name] = now - self._config.alive_seconds
                if self._errors[name] >= _ERRORS:
                    self._disks[key] = msgspec.structs.replace(seen, alive=False)
        await self._ask_for_warnings(now)

    async def _ask_for_warnings(self, now: float) -> None:
        never = (-_WARNING_SECONDS, None)
        self._warnings = {key: self._warnings.get(key, never) for key, seen in self._disks.items() if seen.label}
        due = [
            key
            for key, (asked, _) in self._warnings.items()
            if self._disks[key].alive and now - asked >= _WARNING_SECONDS
        ]
        answers = await asyncio.gather(*(self._warned(self._disks[key].disk.path) for key in due))
        for key, answer in zip(due, answers, strict=True):
            self._warnings[key] = (now, self._warnings[key][1] if answer is None else answer)

    async def _warned(self, path: str) -> list[DiskWarning] | None:
        """What a disk says of its health; None: it has not said."""
        try:
            return [*await self._ports.block.warnings(path)]
        except MillpondError as error:
            log.warning("%s", error)
            return None

    def _silent_too_long(self, name: str) -> bool:
        now = self._ports.clock.boottime()
        return now - self._silent_since.setdefault(name, now) >= _SILENT_SECONDS

    async def _patiently(self, disk: BlockDisk) -> DiskSeen | None:
        """What lies on a disk; None: it is slow to answer, and it is too early to say anything of it."""
        try:
            seen = await self._examine(disk)
        except DeadlineExceeded as error:
            log.warning("disk %s: %s", disk.path, error)
            if self._silent_too_long(disk.name):
                return DiskSeen(disk=disk, alive=False)
            self._unclear = True
            return None
        self._silent_since.pop(disk.name, None)
        self._errors.pop(disk.name, None)
        return seen

    async def _alive(self, path: str) -> bool | None:
        """Whether the disk answers; None: it has not, yet."""
        try:
            return await self._ports.block.alive(path)
        except DeadlineExceeded:
            return None
        except MillpondError:
            return False

    async def _examine(self, disk: BlockDisk) -> DiskSeen:
        """Label and signatures of a disk."""
        try:
            found = await self._ports.labels.read(disk.path)
        except DeadlineExceeded:
            raise
        except Invalid as error:
            return DiskSeen(disk=disk, damaged=str(error))
        except MillpondError as error:
            log.warning("disk %s cannot be read: %s", disk.path, error)
            return DiskSeen(disk=disk, alive=False)
        if found is not None:
            return DiskSeen(disk=disk, label=found)
        try:
            return DiskSeen(disk=disk, signatures=tuple(await self._ports.block.signatures(disk.path)))
        except MillpondError as error:
            log.warning("what is on disk %s cannot be told: %s", disk.path, error)
            return DiskSeen(disk=disk, alive=False)

    # --- one StorageDevice ---

    def _unknown(self) -> list[StorageDevice]:
        """Devices that have a label of this cluster but no StorageDevice (any more).

        Absence is never an instruction: legs on them stay in use.
        """
        found = {name: seen.device_uuid for name, seen in self.seen.items() if name not in self.objects}
        uuids = {device.status.observation.device_uuid for device in self.objects.values()}
        for seen in self._disks.values():
            label = seen.label
            if label is not None and label.cluster == self.cluster and label.device_uuid not in uuids:
                found.setdefault(label.device_name, label.device_uuid)
        return [
            StorageDevice(
                metadata=ObjectMeta(name=name),
                spec=StorageDeviceSpec(node_name=self._config.node, identity=Identity(device_uuid=device_uuid)),
                status=StorageDeviceStatus(observation=DeviceObservation(state="Claimed", device_uuid=device_uuid)),
            )
            for name, device_uuid in sorted(found.items())
            if name not in self.objects
        ]

    async def _one(self, device: StorageDevice, *, known: bool) -> None:
        name = device.metadata.name
        device = self._latest(device)
        decided = self._decide(device)
        if decided.seen is None and self._unclear:
            return
        try:
            while decided.action != "None":
                decided = await self._act(device, decided)
        except (DeadlineExceeded, Unavailable, Conflict) as error:
            # Nobody knows what became of it: look again, and meanwhile it is what it was.
            log.warning("device %s: %s; looked at again", name, error, extra={"device": name})
            if decided.seen is not None:
                self._disks.pop((decided.seen.disk.name, decided.seen.disk.diskseq), None)
            return
        except MillpondError as error:
            log.warning("device %s: %s", name, error, extra={"device": name})
            state: PresenceState = "Failed" if device.status.observation.device_uuid else "Refused"
            decided = Claim(state=state, seen=decided.seen, message=str(error))
        self._note(device, decided)
        self._report(device, decided, write=known)

    def _decide(self, device: StorageDevice) -> Claim:
        return claim.decide(device, list(self._disks.values()), cluster=self.cluster, boot_id=self._boot_id)

    async def _act(self, device: StorageDevice, decided: Claim) -> Claim:
        """Do what the claim needs, on a fresh look at the disk, and decide again."""
        seen = decided.seen
        assert seen is not None
        name, disk = device.metadata.name, seen.disk
        key = (disk.name, disk.diskseq)
        fresh = (await self._ports.block.disks()).get(disk.name)
        if fresh is None or fresh.diskseq != disk.diskseq:
            self._disks.pop(key, None)
            return self._decide(device)
        self._disks[key] = await self._examine(fresh)
        again = self._decide(device)
        if again.action != decided.action or again.seen != self._disks[key]:
            return again
        current = self._disks[key].label
        match again.action:
            case "Erase":
                log.info(
                    "device %s: erasing %s from %s, as eraseSignature allows",
                    name,
                    ", ".join(again.contents),
                    disk.path,
                    extra={"device": name},
                )
                await self._ports.block.erase(disk.path)
            case "Label":
                new = Label(
                    cluster=self.cluster,
                    device_uuid=str(uuid.uuid4()),
                    device_name=name,
                    sequence=1,
                    attach_count=1,
                    boot_id=self._boot_id,
                    diskseq=disk.diskseq,
                )
                await self._ports.labels.write(disk.path, new)
                log.info("device %s: claimed %s as %s", name, disk.path, new.device_uuid, extra={"device": name})
            case "Adopt":
                assert current is not None
                new = msgspec.structs.replace(
                    current, cluster=self.cluster, device_name=name, sequence=current.sequence + 1
                )
                await self._ports.labels.write(disk.path, new)
                whose = f"{current.device_name}, cluster {current.cluster}"
                log.info("device %s: took over the label of %s", name, whose, extra={"device": name})
            case "Appear":
                assert current is not None
                new = label.appeared(current, boot_id=self._boot_id, diskseq=disk.diskseq)
                await self._ports.labels.write(disk.path, new)
                log.info("device %s: its disk is here, attachment %d", name, new.attach_count, extra={"device": name})
                # Only a device that was Failed while it stayed needs this: the next decision must not repeat it.
                self._forgive(device)
        self._disks[key] = await self._examine(disk)
        return self._decide(self._latest(device))

    def _latest(self, device: StorageDevice) -> StorageDevice:
        """The object with the observation that we made last, whatever the watch has delivered of it."""
        mine = self._observed.get(device.metadata.name)
        if mine is None:
            return device
        return msgspec.structs.replace(device, status=msgspec.structs.replace(device.status, observation=mine))

    def _forgive(self, device: StorageDevice) -> None:
        before = self._latest(device).status.observation
        self._observed[device.metadata.name] = msgspec.structs.replace(before, state="Claimed", since="")

    def _note(self, device: StorageDevice, decided: Claim) -> None:
        """Keep what volumes need to know."""
        name, before = device.metadata.name, self.seen.get(device.metadata.name)
        if decided.state == "Claimed" and decided.seen is not None and decided.seen.label is not None:
            disk = decided.seen.disk
            self.seen[name] = DeviceSeen(
                name=name,
                device_uuid=decided.seen.label.device_uuid,
                present=True,
                major_minor=disk.major_minor,
                path=disk.path,
                label=decided.seen.label,
            )
        elif before is not None:
            self.seen[name] = msgspec.structs.replace(before, present=False, major_minor="", path="")
        elif device.status.observation.device_uuid:
            self.seen[name] = DeviceSeen(name=name, device_uuid=device.status.observation.device_uuid, present=False)

    def _report(self, device: StorageDevice, decided: Claim, *, write: bool) -> None:
        name = device.metadata.name
        before = self._latest(device).status.observation
        seen, found = decided.seen, self.seen.get(name)
        observation = msgspec.structs.replace(
            before,
            state=decided.state,
            device_uuid=found.device_uuid if found else before.device_uuid,
            boot_id=self._boot_id,
            contents=list(decided.contents),
            fingerprint=decided.fingerprint,
            message=decided.message,
        )
        if seen is not None:
            observation = msgspec.structs.replace(
                observation,
                path=seen.disk.path,
                serial=seen.disk.serial,
                capacity_bytes=claim.capacity_bytes(seen.disk),
                attach_count=seen.label.attach_count if seen.label else before.attach_count,
            )
            _, said = self._warnings.get((seen.disk.name, seen.disk.diskseq), (0.0, None))
            observation = msgspec.structs.replace(observation, warnings=before.warnings if said is None else said)
        if decided.state != before.state or not observation.since:
            observation = msgspec.structs.replace(observation, since=stamp(self._ports.clock.now()))
            bad = decided.state in ("Failed", "Refused")
            if write and decided.state != before.state:
                message = decided.message or f"its disk is {seen.disk.path}" if seen else decided.message
                self._herald.tell(device, f"Disk{decided.state}", message, warning=bad)
            if bad:
                log.warning("device %s is %s: %s", name, decided.state, decided.message, extra={"device": name})
        self._observed[name] = observation
        if write:
            self._writer.write(StorageDevice, name, {"observation": msgspec.to_builtins(observation)})

    # --- labels, for the volumes' part ---

    async def put_leg(self, device: str, entry: LabelLeg) -> None:
        """Write a leg's entry into a device's label."""
        await self._change(device, lambda found: label.put(found, entry))

    async def leg_ready(self, device: str, volume: str, leg: str, prepared_bytes: int) -> None:
        """Note that a leg is zeroed, for a volume of so many bytes."""
        await self._change(device, lambda found: label.ready(found, volume, leg, prepared_bytes))

    async def drop_leg(self, device: str, volume: str, leg: str) -> None:
        """Remove a leg's entry."""
        await self._change(device, lambda found: label.drop(found, volume, leg))

    async def _change(self, device: str, change: Callable[[Label], Label]) -> None:
        async with self._lock:
            seen = self.seen.get(device)
            if seen is None or not seen.present or seen.label is None:
                raise Invalid(f"device {device} is not here: its label cannot be changed")
            new = change(seen.label)
            if new == seen.label:
                return
            try:
                await self._ports.labels.write(seen.path, new)
            except MillpondError:
                # Whether it is written is unknown, or another one is there: read it before the next change.
                for key in [k for k, d in self._disks.items() if d.label and d.label.device_uuid == new.device_uuid]:
                    del self._disks[key]
                raise
            self.seen[device] = msgspec.structs.replace(seen, label=new)
            for key, disk in self._disks.items():
                if disk.label is not None and disk.label.device_uuid == new.device_uuid:
                    self._disks[key] = msgspec.structs.replace(disk, label=new)
