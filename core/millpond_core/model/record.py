"""The record of a volume: its legs, and where it is assembled.

Written by the master, and a leg's state by the attach node too. Changed only by JSON Patch that tests what it replaces;
the rules refuse what comes from an outdated copy.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from millpond_core.model.meta import Rule, Wire, keyed

LegState = Literal["InSync", "Rebuilding", "Stale", "Failed"]


class Extent(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """A run of 4 MiB units on one device. Unit 0 is the first unit after the label area."""

    device: Annotated[str, Meta(description="Name of the StorageDevice.", max_length=253)]
    device_uuid: Annotated[str, Meta(description="Identity (UUID) in that device's label.", max_length=36)]
    start: Annotated[int, Meta(description="First unit (4 MiB each).", ge=0)]
    length: Annotated[int, Meta(description="Number of units (4 MiB each).", ge=1)]


class Leg(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """One full copy: [1 MiB write-intent bitmap | data], concatenated or striped over its extents."""

    id: Annotated[
        str, Meta(description="Identity within the volume, never reused.", pattern="^[a-z]{1,4}$", max_length=4)
    ]
    node: Annotated[str, Meta(description="Leg node: where the extents are.", max_length=253)]
    state: Annotated[LegState, Meta(description="What the record says: InSync, Rebuilding, Stale or Failed.")]
    complete: Annotated[bool, Meta(description="It held a full copy once: a delta may suffice.")] = False
    releasing: Annotated[
        bool, Meta(description="The leg's extents are being given back; it is part of the volume no more.")
    ] = False
    extents: Annotated[list[Extent], Meta(description="Where the bytes are, in order.", max_length=256)] = []

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.state != 'InSync' || !(oldSelf.state in ['Stale', 'Failed'])",
            "a leg that is Stale or Failed lacks writes: it becomes InSync through Rebuilding only",
            ".state",
        ),
        Rule(
            "self.node == oldSelf.node",
            "a leg's node is immutable: a copy elsewhere is another leg",
            ".node",
        ),
        Rule(
            "self.releasing || !oldSelf.releasing",
            "a leg's releasing cannot be taken back: its extents may hold others' data already",
            ".releasing",
        ),
        Rule(
            "self.extents.size() >= oldSelf.extents.size()",
            "a leg's extents only grow: give them back by releasing the leg",
            ".extents",
        ),
    )


class LegGrowth(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """What one leg gets for a larger volume."""

    id: Annotated[str, Meta(description="The leg.", pattern="^[a-z]{1,4}$", max_length=4)]
    extents: Annotated[
        list[Extent], Meta(description="Where its new bytes are, in order, behind those that it has.", max_length=256)
    ] = []


class Growth(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """Extents that are being prepared for a larger size; with the next generation they are the legs'."""

    size_bytes: Annotated[int, Meta(description="Usable bytes of the volume afterwards.", ge=0)]
    legs: Annotated[
        list[LegGrowth], Meta(description="The legs, by id.", max_length=8, extra_json_schema=keyed("id"))
    ] = []

    def of(self, leg: str) -> list[Extent]:
        """What a leg gets."""
        return next((list(grown.extents) for grown in self.legs if grown.id == leg), [])


class Mapping(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """The record. Changed only by JSON Patch that tests what it replaces."""

    generation: Annotated[int, Meta(description="Counts the master's commits: which legs there are.", ge=0)] = 0
    record_seq: Annotated[int, Meta(description="Counts every change of a leg's state.", ge=0)] = 0
    size_bytes: Annotated[
        int, Meta(description="Usable bytes that every leg has; 0: noted by nobody, it never grew.", ge=0)
    ] = 0
    legs: Annotated[list[Leg], Meta(description="The legs, by id.", max_length=8, extra_json_schema=keyed("id"))] = []

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.generation >= oldSelf.generation",
            "status.mapping.generation never falls: what is written comes from an outdated record, read it again",
            ".generation",
        ),
        Rule(
            "self.recordSeq >= oldSelf.recordSeq",
            "status.mapping.recordSeq never falls: what is written comes from an outdated record, read it again",
            ".recordSeq",
        ),
        Rule(
            "self.recordSeq > oldSelf.recordSeq || self == oldSelf",
            "status.mapping.recordSeq must rise with every change of the mapping",
            ".recordSeq",
        ),
        Rule(
            "self.sizeBytes >= oldSelf.sizeBytes",
            "status.mapping.sizeBytes never falls: what a smaller volume would cut off may be in use",
            ".sizeBytes",
        ),
        Rule(
            "oldSelf.generation == 0 || self.legs.all(l, l.state == 'Rebuilding' || "
            "oldSelf.legs.exists(o, o.id == l.id))",
            "status.mapping.legs: a leg that joins after the first mapping holds nothing yet, it starts as Rebuilding",
            ".legs",
        ),
    )


class Attachment(Wire, omit_defaults=False, frozen=True, kw_only=True):
    """Where the volume is assembled, and by which epoch."""

    node: Annotated[str, Meta(description="Attach node; empty: nowhere.", max_length=253)] = ""
    epoch: Annotated[int, Meta(description="Raised with each attach: one writer per epoch.", ge=0)] = 0
    clean: Annotated[bool, Meta(description="The last assembly was stopped with all legs equal.")] = True

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.epoch >= oldSelf.epoch",
            "status.attachment.epoch never falls: what is written comes from an outdated record, read it again",
            ".epoch",
        ),
        Rule(
            "self.node == oldSelf.node || self.node == '' || self.epoch > oldSelf.epoch",
            "status.attachment.epoch must rise with each attach: one writer per epoch",
            ".epoch",
        ),
        Rule(
            "self.node == '' || !self.clean",
            "status.attachment.clean must be false while a node is named: writes may be in flight",
            ".clean",
        ),
    )
    boot_id: Annotated[
        str,
        Meta(
            description="Boot of the attach node in which this epoch may be assembled: after a reboot the legs may "
            "differ, and the master raises the epoch and names a source first. Empty: any."
        ),
    ] = ""
    previous: Annotated[
        int,
        Meta(
            description="Epoch under which the volume was last assembled, before this one where a node is named: one "
            "that only fenced a node may lie in between. 0: not noted, the one before.",
            ge=0,
        ),
    ] = 0
