"""The label area: the first 4 MiB of a device that is Millpond's.

    0        a line for whoever looks at the disk with a hex editor, and a protective MBR
    1 MiB    slot A, 1.5 MiB
    2.5 MiB  slot B, 1.5 MiB

A slot is a header of 4 KiB and a payload of JSON (readable in an emergency, and by later versions). The label is the
valid slot with the higher sequence; writing goes to the other one, payload first, header last, each flushed: what is
torn is never the newest that was complete, and a first write that was torn leaves no header and so no label.

The protective MBR (UEFI specification, 5.2.3: one partition of type 0xEE over the whole disk) tells partitioners,
mkfs and LVM that the disk is taken; the kernel makes no partition of it. Nothing else lies where scanners look.
"""

from __future__ import annotations

import hashlib
import struct

import msgspec

from millpond_adapters import rawio
from millpond_core.errors import Conflict, Invalid, IOFailed
from millpond_core.observed import Label
from millpond_core.units import KIB, LABEL_BYTES, MIB

MAGIC = b"Millpond label\0\0"
VERSION = 1
NOTICE = b"This disk belongs to Millpond, storage for Kubernetes. Its contents are in use; see millpond.io.\n"
_TAKEN = bytes.fromhex("00 000200 ee ffffff 01000000 ffffffff")  # from sector 1 to the end, as GPT's own says
MBR = (NOTICE.ljust(446, b"\0") + _TAKEN).ljust(510, b"\0") + b"\x55\xaa" + bytes(4 * KIB - 512)
SLOT_BYTES = 3 * MIB // 2
SLOTS = (MIB, MIB + SLOT_BYTES)
_BLOCK = 4 * KIB
# magic, version, length of the payload, sequence, SHA-256 of these and the payload
_HEADER = struct.Struct("<16sIIQ32s")
_FIRST = 64 * KIB
"""What is read of a slot before its header is known: a label with a few hundred legs."""

_SECONDS = 10.0


class LabelArea:
    """The port ``Labels``."""

    async def read(self, path: str) -> Label | None:
        return newest(path, await self._slots(path))

    async def write(self, path: str, label: Label) -> None:
        slots = await self._slots(path)
        present = newest(path, slots)
        if present is None and label.sequence != 1:
            raise Conflict(
                f"{path} has no label, and the one to be written (sequence {label.sequence}) is no device's first: "
                "it is another disk than it was"
            )
        if present is not None and label.sequence <= present.sequence:
            raise Conflict(
                f"{path} has a label with sequence {present.sequence}; one with {label.sequence} would be older: "
                "read it again"
            )
        if present is not None and present.device_uuid != label.device_uuid:
            raise Conflict(
                f"{path} is labelled as device {present.device_uuid} ({present.device_name}), not as "
                f"{label.device_uuid}: it is another disk, or its label was not cleared"
            )
        header, payload = encode(label)
        # never over the newest; an unlabelled disk gets the first
        target = SLOTS[1] if present is not None and _sequence(slots[0]) == present.sequence else SLOTS[0]
        if present is None:
            await self._put(path, 0, MBR)
        await self._put(path, target + _BLOCK, payload)
        await self._put(path, target, header)

    async def clear(self, path: str) -> None:
        """Zero the area: the device is nobody's again. Idempotent."""
        await self._put(path, 0, bytes(LABEL_BYTES))

    async def _slots(self, path: str) -> tuple[bytes, ...]:
        """Both slots, each as far as its header says that it goes."""
        return tuple([await self._slot(path, start) for start in SLOTS])

    async def _slot(self, path: str, start: int) -> bytes:
        head = await self._get(path, start, _FIRST)
        magic, _, length, _, _ = _HEADER.unpack_from(head)
        more = min(_BLOCK + length, SLOT_BYTES) - len(head) if magic == MAGIC else 0
        return head if more <= 0 else head + await self._get(path, start + len(head), -(-more // _BLOCK) * _BLOCK)

    async def _get(self, path: str, start: int, length: int) -> bytes:
        try:
            area = await rawio.read(path, start, length, seconds=_SECONDS)
        except IOFailed as error:
            raise IOFailed(f"the label of {path} cannot be read: {error}") from error
        if len(area) != length:
            raise Invalid(f"{path} is smaller than the label area of {LABEL_BYTES} bytes")
        return area

    async def _put(self, path: str, start: int, data: bytes) -> None:
        try:
            await rawio.write(path, start, data, seconds=_SECONDS)
        except IOFailed as error:
            raise IOFailed(f"the label of {path} cannot be written: {error}") from error


def encode(label: Label) -> tuple[bytes, bytes]:
    """(header, payload) of a slot, each filled up to whole blocks of 4 KiB. Invalid when it does not fit."""
    content = msgspec.json.encode(label)
    if len(content) > SLOT_BYTES - _BLOCK:
        raise Invalid(
            f"the label of {label.device_name} would take {len(content)} bytes of {SLOT_BYTES - _BLOCK}: "
            f"{len(label.legs)} legs are too many for one device"
        )
    digest = _digest(VERSION, label.sequence, content)
    header = _HEADER.pack(MAGIC, VERSION, len(content), label.sequence, digest)
    return header.ljust(_BLOCK, b"\0"), content.ljust(-(-len(content) // _BLOCK) * _BLOCK, b"\0")


def decode(slot: bytes) -> Label | None:
    """The label in a slot; None: there is none. Invalid when it is damaged or of a version that we do not know."""
    magic, version, length, sequence, digest = _HEADER.unpack_from(slot)
    if magic != MAGIC:
        return None
    if version != VERSION:
        raise Invalid(f"a label of version {version}; this Millpond knows version {VERSION}: use a newer one")
    content = slot[_BLOCK : _BLOCK + length]
    if len(content) != length or _digest(version, sequence, content) != digest:
        raise Invalid(f"the label with sequence {sequence} is damaged")
    try:
        return msgspec.json.decode(content, type=Label)
    except msgspec.MsgspecError as error:
        raise Invalid(f"the label with sequence {sequence} cannot be understood: {error}") from error


def newest(path: str, slots: tuple[bytes, ...]) -> Label | None:
    """Of the slots of ``path`` the valid one with the highest sequence; None when neither holds a label.

    Invalid when one is damaged and the other does not make up for it.
    """
    found: list[Label] = []
    damage: list[Invalid] = []
    for slot in slots:
        try:
            label = decode(slot)
        except Invalid as error:
            damage.append(error)
        else:
            found += [label] if label is not None else []
    if damage and not found:
        raise Invalid(f"{path} has a Millpond label that cannot be read: {'; '.join(str(each) for each in damage)}")
    return max(found, key=lambda label: label.sequence, default=None)


def _sequence(slot: bytes) -> int | None:
    try:
        label = decode(slot)
    except Invalid:
        return None
    return label.sequence if label is not None else None


def _digest(version: int, sequence: int, content: bytes) -> bytes:
    return hashlib.sha256(struct.pack("<IQQ", version, sequence, len(content)) + content).digest()
