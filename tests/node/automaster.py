"""A master that keeps a volume going: takes lost legs back, attaches anew after a reboot. No spares, no quiescences."""

from __future__ import annotations

import msgspec
from node_cluster import Cluster

from millpond_core.errors import MillpondError
from millpond_core.model.virtualvolume import Leg


class AutoMaster:
    """Acts at every tick of the cluster that it is put into, while ``awake``."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.awake = True

    async def act(self) -> None:
        """One look, one step."""
        if not self.awake or self.cluster.kube._out:
            return
        try:
            await self._detached()
            await self._again()
            await self._rejoin()
        except MillpondError:
            return

    async def _again(self) -> None:
        volume = self.cluster.vvol(self.name)
        node, at = volume.spec.attachment.node, volume.status.attachment
        if not node or not self.cluster.machine(node).on:
            return
        if not at.node or at.boot_id != self.cluster.boot_id(node):
            await self.cluster.attach(self.name, node, wait=False)

    async def _detached(self) -> None:
        volume = self.cluster.vvol(self.name)
        at = volume.status.attachment
        if not at.node:
            return
        said = self.cluster.report(self.name, at.node)
        ended = said.ended_epoch == at.epoch and said.front == "None"
        if volume.spec.attachment.node == at.node and not ended:
            return
        clean = ended and said.clean_epoch == at.epoch
        if ended or at.boot_id != self.cluster.boot_id(at.node):
            left = msgspec.structs.replace(at, node="", clean=clean, boot_id="")
            await self.cluster.change(self.name, attachment=left)

    async def _rejoin(self) -> None:
        for leg in self.cluster.vvol(self.name).status.mapping.legs:
            on = leg.node in self.cluster.managers and self.cluster.machine(leg.node).on
            if leg.state == "Stale" and on and self.cluster.exported(self.name, leg.id) and self._left(leg):
                await self.cluster.commit(
                    self.name,
                    lambda one, leg=leg: msgspec.structs.replace(one, state="Rebuilding") if one.id == leg.id else one,
                )
                return

    def _left(self, leg: Leg) -> bool:
        """The attach node has let it go."""
        node = self.cluster.vvol(self.name).status.attachment.node
        return not node or all(path.id != leg.id for path in self.cluster.report(self.name, node).paths)
