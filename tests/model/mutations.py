"""Each rule broken on purpose, in ``core``'s own code where the rule is kept there, and the size that shows why not.

A mutation that is caught by a second line too is made in both: what stands in for what is said beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from sizes import ALONE, BLIP, CRASH, FAR, LOSE, MOVE, RACE, REPLACE, RETURN, SPARE, STILL
from state import Size
from world import Model

from millpond_core import layout, quiesce
from millpond_core.master import attaching, deleting, quiescence
from millpond_core.master import volumes as v
from millpond_core.nodeplan import attach, label, leave, legs, losing, node, steps, still
from millpond_core.nodeplan.attaching import Attaching
from millpond_core.observed import Member

Patch = pytest.MonkeyPatch


class Mutation(NamedTuple):
    name: str
    size: Size
    make: Callable[[Patch, Model], None]
    shows: tuple[str, ...]
    """What the history that catches it must tell: else it is caught for another reason."""


def _no_compare_and_swap(patch: Patch, model: Model) -> None:
    """Neither the tests of a patch nor, as the second line, the rules of the CRD."""
    model.api.tests = model.api.rules = False


def _no_epoch_check(patch: Patch, model: Model) -> None:
    """A state manager goes on as if the epoch of its stack were still the volume's."""
    real = node.plan

    def plan(volume: Any, kernel: Any, around: Any, memory: Any) -> Any:
        at = volume.status.attachment
        if memory.epoch and memory.epoch < at.epoch:
            attachment = msgspec.structs.replace(at, node=around.node, epoch=memory.epoch, boot_id="")
            wanted = msgspec.structs.replace(volume.spec.attachment, node=around.node)
            volume = msgspec.structs.replace(
                volume,
                spec=msgspec.structs.replace(volume.spec, attachment=wanted),
                status=msgspec.structs.replace(volume.status, attachment=attachment),
            )
        return real(volume, kernel, around, memory)

    patch.setattr(node, "plan", plan)


def _gate_before_record(patch: Patch, model: Model) -> None:
    real = losing.demote

    def demote(plan: Attaching) -> bool:
        found = real(plan)
        plan.steps.sort(key=lambda step: isinstance(step, steps.Record))
        return found

    patch.setattr(losing, "demote", demote)


def _promoted_in_one_look(patch: Patch, model: Model) -> None:
    """Hold, flush, record: all from the look that saw md done."""

    def promote(plan: Attaching, leg: Any) -> None:
        plan.steps += [
            steps.GateHold(name=plan.gate_name(leg.id)),
            steps.Flush(name=plan.path_name(leg.id)),
            steps.Record(leg=leg.id, old=leg.state, new="InSync"),
        ]

    patch.setattr(attach, "_promote", promote)


def _promoted_with_a_failing_gate(patch: Patch, model: Model) -> None:
    def promote(plan: Attaching, leg: Any) -> None:
        plan.steps += [
            steps.Flush(name=plan.path_name(leg.id)),
            steps.Record(leg=leg.id, old=leg.state, new="InSync"),
        ]

    patch.setattr(attach, "_promote", promote)


def _promoted_unflushed(patch: Patch, model: Model) -> None:
    real = attach._promote

    def promote(plan: Attaching, leg: Any) -> None:
        real(plan, leg)
        plan.steps = [step for step in plan.steps if not isinstance(step, steps.Flush)]

    patch.setattr(attach, "_promote", promote)


def _promoted_while_copied(patch: Patch, model: Model) -> None:
    def in_sync(member: Member | None) -> bool:
        return member is not None and not member.flags & frozenset({"faulty", "blocked"})

    patch.setattr(attach, "in_sync", in_sync)


def _another_incarnation(patch: Patch, model: Model) -> None:
    patch.setattr(Attaching, "same_life", lambda plan, leg: True)
    patch.setattr(Attaching, "gone_for_good", lambda plan, leg: False)


def _equals_after_a_crash(patch: Patch, model: Model) -> None:
    real = attaching._raise_epoch

    def raised(world: Any, volume: Any, at: str, what: str) -> Any:
        status = volume.status
        clean = msgspec.structs.replace(status.attachment, clean=True)
        status = msgspec.structs.replace(status, attachment=clean)
        return real(world, msgspec.structs.replace(volume, status=status), at, what)

    patch.setattr(attaching, "_raise_epoch", raised)


def _delta_at_any_time(patch: Patch, model: Model) -> None:
    patch.setattr(attach, "_delta", lambda plan, leg: True)


def _array_not_told(patch: Patch, model: Model) -> None:
    """A new array is not told what was dirty, so md calls what returns in sync at once."""
    real = attach.assemble

    def assemble(plan: Attaching) -> bool:
        found = real(plan)
        plan.steps = [
            msgspec.structs.replace(step, dirty_from=()) if isinstance(step, steps.Assemble) else step
            for step in plan.steps
        ]
        return found

    patch.setattr(attach, "assemble", assemble)


def _own_bitmap_unread(patch: Patch, model: Model) -> None:
    real = attach._add

    def add(plan: Attaching, leg: Any) -> None:
        real(plan, leg)
        plan.steps = [
            msgspec.structs.replace(step, dirty_from="") if isinstance(step, steps.Add) else step for step in plan.steps
        ]

    patch.setattr(attach, "_add", add)


def _unfenced(patch: Patch, model: Model) -> None:
    """Leg nodes confirm an epoch while older exports stand, and leave those as they are."""
    real = legs.plan

    def plan(*arguments: Any) -> Any:
        made = real(*arguments)
        left = tuple(step for step in made.steps if not isinstance(step, steps.Unexport))
        return msgspec.structs.replace(made, steps=left)

    patch.setattr(legs, "plan", plan)
    patch.setattr(legs, "_confirmed", lambda volume, own, kernel: True)


def _opened_before_consumers_are_gone(patch: Patch, model: Model) -> None:
    def sever(plan: Attaching, front: Any) -> None:
        plan.steps += leave._opening(plan)

    patch.setattr(leave, "_sever", sever)


def _pods_left_alive(patch: Patch, model: Model) -> None:
    real = leave._sever

    def sever(plan: Attaching, front: Any) -> None:
        real(plan, front)
        plan.steps = [step for step in plan.steps if not isinstance(step, steps.KillPods)]

    patch.setattr(leave, "_sever", sever)


def _master_ignores_the_deadline(patch: Patch, model: Model) -> None:
    """Nor does it, as the second line, hear that nodes have gone on."""
    patch.setattr(quiescence, "_moving", lambda world, q: [])
    patch.setattr(quiescence, "_deadline", lambda q: float("inf"))
    patch.setattr(quiesce, "hold_allows", lambda acknowledged, now: True)


def _nobody_keeps_the_deadline(patch: Patch, model: Model) -> None:
    """Neither the watchdog nor, as the second line, the state manager."""
    model.watchdog = False
    real = still.wants
    patch.setattr(still, "wants", lambda there, volume, now: real(there, volume, 0.0))


def _last_word_not_awaited(patch: Patch, model: Model) -> None:
    """Nor is anyone, as the second line, asked again."""
    patch.setattr(quiescence, "_moving", lambda world, q: [])
    real = quiescence._awaited
    patch.setattr(quiescence, "_awaited", lambda *arguments: real(*arguments)[:-1])


def _extents_given_out_early(patch: Patch, model: Model) -> None:
    """Nobody's report is awaited; the label, as the second line, does not see that two legs overlap."""
    real = v.report
    patch.setattr(deleting, "given_back", lambda world, volume, leg: True)
    patch.setattr(
        v, "report", lambda volume, at: _caught_up(real(volume, at)) if real(volume, at) is not None else None
    )
    patch.setattr(label, "overlap", lambda one, other: None)


def _caught_up(report: Any) -> Any:
    return msgspec.structs.replace(report, generation=1_000)


def _absence_as_an_instruction(patch: Patch, model: Model) -> None:
    """What the record does not know is dropped from the label."""
    real = legs.plan

    def plan(volume: Any, kernel: Any, around: Any, memory: Any) -> Any:
        made = real(volume, kernel, around, memory)
        known = {leg.id for leg in legs.mine(volume, around.node)}
        dropped = [
            steps.DropLeg(device=device.name, volume=entry.volume, leg=entry.leg)
            for device in kernel.devices.values()
            for entry in (device.label.legs if device.label else ())
            if entry.leg not in known
        ]
        return msgspec.structs.replace(made, steps=(*made.steps, *dropped))

    patch.setattr(legs, "plan", plan)


def _allocated_twice(patch: Patch, model: Model) -> None:
    """The master takes a lost record for a new volume; labels, as the second line, are not asked."""
    patch.setattr(v, "mapping_lost", lambda world, volume: "")
    patch.setattr(legs, "_newer_label", lambda volume, kernel: "")
    real = legs._entry

    def entry(volume: Any, leg: Any, device: Any) -> Any:
        made, old = real(volume, leg, device), device.entry(volume.spec.uuid, leg.id)
        anew = old is not None and old.epoch > made.epoch
        return msgspec.structs.replace(made, zeroed=made.zeroed and not anew)

    patch.setattr(legs, "_entry", entry)


def _gate_fails_while_in_sync(patch: Patch, model: Model) -> None:
    real = layout.gate_table
    patch.setattr(layout, "gate_table", lambda number, size, *, holding: real(number, size, holding=False))
    patch.setattr(Attaching, "holding", lambda plan, leg: True)


def _last_leg_lost(patch: Patch, model: Model) -> None:
    """Neither the state manager keeps it nor, as the second line, the rules of the CRD."""
    patch.setattr(losing, "may_lose", lambda plan, leg: True)
    model.api.rules = False


def _assembled_from_all(patch: Patch, model: Model) -> None:
    """Legs that are to be copied are taken for good; that their gates do not hold, the second line, is not seen."""
    real = attach.assemble

    def assemble(plan: Attaching) -> bool:
        with pytest.MonkeyPatch.context() as meanwhile:
            meanwhile.setattr(plan, "insync", plan.wanted)
            meanwhile.setattr(plan, "holding", lambda leg: True)
            return real(plan)

    patch.setattr(attach, "assemble", assemble)


LACKS = "is recorded InSync but lacks acknowledged write"
EQUALS = "as equals, and they differ"

MUTATIONS = (
    Mutation("no compare-and-swap", RACE, _no_compare_and_swap, ("n1: Record b InSync → Stale", "it is wanted on n2")),
    Mutation("no epoch check", MOVE, _no_epoch_check, ("attached to n2", LACKS)),
    Mutation("gate failing before the record", LOSE, _gate_before_record, ("n1: GateFail b", LACKS)),
    Mutation("promotion without looking again", BLIP, _promoted_in_one_look, ("n1: Record b Rebuilding → InSync",)),
    Mutation("reinstated with another incarnation", LOSE, _another_incarnation, ("n1: GateReinstate", LACKS)),
    Mutation("both legs read as equals after a crash", CRASH, _equals_after_a_crash, ("Assemble from a, b", EQUALS)),
    Mutation(
        "delta for a leg that was not in sync in the last epoch",
        SPARE,
        _delta_at_any_time,
        ("Add c by a delta", "lacks acknowledged write"),
    ),
    Mutation("new array not told what is dirty", CRASH, _array_not_told, ("has nothing noted for",)),
    Mutation("unfenced attach", MOVE, _unfenced, ("n2: Assemble from b", "write 1 from n1 reaches b", LACKS)),
    Mutation(
        "fenced volume opened before its consumers are gone",
        MOVE,
        _opened_before_consumers_are_gone,
        ("which has failed: its leg nodes fence it", "n1: GateFail", LACKS),
    ),
    Mutation("opened while its pods live", ALONE, _pods_left_alive, ("n1: Sever front", "n1: GateFail a", LACKS)),
    Mutation(
        "deadline ignored by the master",
        STILL,
        _master_ignores_the_deadline,
        ("the quiescence's deadline passes", "a generation is committed while n1 does not hold reads and writes"),
    ),
    Mutation("deadline kept by nobody", STILL, _nobody_keeps_the_deadline, ("past the deadline, and nothing ends",)),
    Mutation(
        "commit without the last acknowledgement",
        STILL,
        _last_word_not_awaited,
        ("a generation is committed while long operations run on n1",),
    ),
    Mutation("extents given out early", REPLACE, _extents_given_out_early, ("a write reaches the extents of leg b",)),
    Mutation(
        "absence taken as an instruction",
        LOSE,
        _absence_as_an_instruction,
        ("the record is lost", "a write reaches the extents of leg"),
    ),
    Mutation("a lost record allocated anew", LOSE, _allocated_twice, ("the record is lost", "generation 1", LACKS)),
    Mutation(
        "gate failing while its leg is InSync", LOSE, _gate_fails_while_in_sync, ("md on n1 sees an error", LACKS)
    ),
    Mutation("last InSync leg lost", FAR, _last_leg_lost, ("no leg is recorded InSync",)),
    Mutation(
        "promotion while md still copies", RETURN, _promoted_while_copied, ("Record b Rebuilding → InSync", LACKS)
    ),
    Mutation("promotion with the gate failing", RETURN, _promoted_with_a_failing_gate, (LACKS,)),
    Mutation("promotion without a flush", RETURN, _promoted_unflushed, ("Record b Rebuilding → InSync", LACKS)),
    Mutation("assembled from legs that are not InSync", CRASH, _assembled_from_all, ("Assemble from a, b",)),
    Mutation("returning leg's own bitmap unread", RETURN, _own_bitmap_unread, ("by a delta",)),
)
