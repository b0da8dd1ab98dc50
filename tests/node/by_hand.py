"""The master's part, done by hand: what a test that has state managers and no operator writes into the objects."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from millpond_core import names
from millpond_core.errors import NotFound
from millpond_core.model import (
    ObjectMeta,
    Quiescence,
    StorageDevice,
    StorageNode,
    VirtualVolume,
)
from millpond_core.model.quiescence import QuiescenceSpec, QuiescenceStatus, Scope
from millpond_core.model.virtualvolume import (
    Attachment,
    DesiredAttachment,
    Extent,
    Leg,
    Mapping,
    NodeReport,
    OnFailure,
    VirtualVolumeSpec,
    VirtualVolumeStatus,
)
from millpond_core.model.virtualvolume import Layout as VolumeLayout
from millpond_core.model.volumespec import Rebuild
from millpond_core.testing.kube import MemoryKube
from millpond_core.units import MIB, leg_units


class ByHand:
    """Objects read and written. Whoever derives says how to wait and which boot a node is in."""

    kube: MemoryKube
    nodes: tuple[str, ...]

    async def until(self, what: Callable[[], object], *, seconds: int = 120, why: str = "") -> None:
        raise NotImplementedError

    def boot_id(self, node: str) -> str:
        raise NotImplementedError

    # --- objects ---

    def get(self, kind: type[Any], name: str) -> Any:
        for key, document in self.kube._store._objects.items():
            if (key.plural, key.name) == (kind.plural, name):
                return msgspec.convert(document, kind)
        raise NotFound(f"{kind.plural} {name} does not exist yet")

    def vvol(self, name: str) -> VirtualVolume:
        found: VirtualVolume = self.get(VirtualVolume, name)
        return found

    def report(self, name: str, node: str) -> NodeReport:
        return next((r for r in self.vvol(name).status.nodes if r.node == node), NodeReport(node=node))

    def leg(self, name: str, leg: str) -> Leg:
        return next(one for one in self.vvol(name).status.mapping.legs if one.id == leg)

    def sdev(self, name: str) -> StorageDevice:
        found: StorageDevice = self.get(StorageDevice, name)
        return found

    def snode(self, name: str) -> StorageNode:
        """An empty one before its state manager has made it."""
        try:
            found: StorageNode = self.get(StorageNode, name)
        except NotFound:
            return StorageNode()
        return found

    def states(self, name: str) -> dict[str, str]:
        return {leg.id: leg.state for leg in self.vvol(name).status.mapping.legs}

    def in_sync(self, name: str) -> list[str]:
        return [leg for leg, state in self.states(name).items() if state == "InSync"]

    # --- the master by hand ---

    async def volume(
        self, name: str, *nodes: str, size_mib: int = 16, on_failure: OnFailure | None = None, start: int = 0
    ) -> str:
        """Allocate a volume with a leg on each of ``nodes`` (its disk nvme1) and wait until they are prepared."""
        vid = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
        legs = [
            self.new_leg(names.leg_id(i), node, size_mib, start=start, state="InSync") for i, node in enumerate(nodes)
        ]
        self.kube.seed(
            VirtualVolume(
                metadata=ObjectMeta(name=name, labels={names.node_label(node): "" for node in self.nodes}),
                spec=VirtualVolumeSpec(
                    uuid=vid,
                    size=f"{size_mib}Mi",
                    layout=VolumeLayout(copies=len(nodes)),
                    on_failure=on_failure or OnFailure(),
                ),
                status=VirtualVolumeStatus(
                    size_bytes=size_mib * MIB,
                    mapping=Mapping(generation=1, record_seq=1, legs=legs),
                    next_leg=len(legs),
                ),
            )
        )
        await self.until(lambda: all(self.prepared(name, leg) for leg in self.vvol(name).status.mapping.legs))
        return name

    def new_leg(self, leg: str, node: str, size_mib: int, *, start: int = 0, state: str = "Rebuilding") -> Leg:
        device = self.sdev(f"{node}-nvme1")
        extent = Extent(
            device=device.metadata.name,
            device_uuid=device.status.observation.device_uuid,
            start=start,
            length=leg_units(size_mib * MIB),
        )
        return Leg(id=leg, node=node, state=state, extents=[extent])  # type: ignore[arg-type]

    def prepared(self, name: str, leg: Leg) -> bool:
        return any(r.prepared for r in self.report(name, leg.node).legs if r.id == leg.id)

    def exported(self, name: str, leg: str) -> bool:
        """Whether the leg can be had on the attach node, under the present epoch."""
        volume = self.vvol(name)
        found = next(one for one in (*volume.status.mapping.legs, *volume.status.spares) if one.id == leg)
        report = self.report(name, found.node)
        said = next((r for r in report.legs if r.id == leg), None)
        if said is None or report.epoch != volume.status.attachment.epoch:
            return False
        return bool(said.nqn) or (said.prepared and found.node == volume.status.attachment.node)

    async def change(self, name: str, **fields: Any) -> None:
        """The master's write of status fields (typed values)."""
        operations = [
            {"op": "add", "path": f"/status/{path.replace('.', '/')}", "value": msgspec.to_builtins(value)}
            for path, value in fields.items()
        ]
        await self.kube.patch(VirtualVolume, name, operations, status=True)

    async def limit(self, name: str, kib: int) -> None:
        spec = msgspec.to_builtins(Rebuild(max_rate=kib))
        await self.kube.patch(VirtualVolume, name, [{"op": "add", "path": "/spec/rebuild", "value": spec}])

    async def want(self, name: str, node: str) -> None:
        spec = msgspec.to_builtins(DesiredAttachment(node=node)) or {"node": ""}
        await self.kube.patch(VirtualVolume, name, [{"op": "add", "path": "/spec/attachment", "value": spec}])

    async def attach(self, name: str, node: str, *, wait: bool = True) -> None:
        """As ControllerPublish and the master do it; after an unclean end one leg is the source."""
        await self.want(name, node)
        volume = self.vvol(name)
        before, mapping = volume.status.attachment, volume.status.mapping
        if not before.clean:
            insync = [leg for leg in mapping.legs if leg.state == "InSync" and not leg.releasing]
            source = min(insync, key=lambda leg: (leg.node != node, leg.id))
            legs = [
                msgspec.structs.replace(leg, state="Rebuilding") if leg in insync and leg is not source else leg
                for leg in mapping.legs
            ]
            mapping = Mapping(generation=mapping.generation, record_seq=mapping.record_seq + 1, legs=legs)
        epoch = max([before.epoch, *(r.epoch for r in volume.status.nodes)]) + 1
        boot = self.boot_id(node)
        await self.change(
            name,
            mapping=mapping,
            attachment=Attachment(node=node, epoch=epoch, clean=False, boot_id=boot),
        )
        if wait:
            await self.until(
                lambda: self.report(name, node).front == "Active" and self.report(name, node).epoch == epoch
            )

    async def detach(self, name: str) -> None:
        node = self.vvol(name).status.attachment.node
        await self.want(name, "")
        epoch = self.vvol(name).status.attachment.epoch
        await self.until(
            lambda: self.report(name, node).clean_epoch == epoch and self.report(name, node).front == "None"
        )
        await self.change(name, attachment=Attachment(node="", epoch=epoch, clean=True))

    async def commit(self, name: str, change: Callable[[Leg], Leg | None], *added: Leg) -> None:
        """A new generation: each leg changed (None: gone), others added."""
        mapping = self.vvol(name).status.mapping
        legs = [new for leg in mapping.legs if (new := change(leg)) is not None]
        await self.change(
            name,
            mapping=Mapping(generation=mapping.generation + 1, record_seq=mapping.record_seq + 1, legs=[*legs, *added]),
        )

    async def rejoin(self, name: str, leg: str) -> None:
        """A leg is back: Stale → Rebuilding, once it can be had."""
        await self.until(lambda: self.leg(name, leg).state == "Stale" and self.exported(name, leg))
        await self.commit(name, lambda one: msgspec.structs.replace(one, state="Rebuilding") if one.id == leg else one)

    async def ring(
        self, name: str, *volumes: str, nodes: tuple[str, ...], hold_io: bool = False, deadline: int = 30
    ) -> None:
        """The master instructs ``nodes`` to make ``volumes`` still."""
        self.kube.seed(
            Quiescence(
                metadata=ObjectMeta(name=name),
                spec=QuiescenceSpec(
                    reason="Manual", scope=Scope(volumes=list(volumes)), hold_io=hold_io, deadline_seconds=deadline
                ),
                status=QuiescenceStatus(phase="Instructed", participants=list(nodes), volumes=list(volumes)),
            )
        )
        for node in nodes:
            rings = self.snode(node).metadata.annotations.get(names.ANNOTATION_QUIESCE, "")
            bell = ",".join(sorted({*rings.split(","), name} - {""}))
            await self.kube.merge(StorageNode, node, {"metadata": {"annotations": {names.ANNOTATION_QUIESCE: bell}}})

    async def silence(self, *nodes: str) -> None:
        for node in nodes:
            await self.kube.merge(StorageNode, node, {"metadata": {"annotations": {names.ANNOTATION_QUIESCE: None}}})

    def answer(self, node: str, name: str) -> Any:
        return next((a for a in self.snode(node).status.quiescences if a.name == name), None)
