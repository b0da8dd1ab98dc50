"""From one state of the virtualization database to the next: what happened, in a person's words.

Pure: a function of what an object was and what it is. Moments have a kind, so that the report can find them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Moment:
    """Something that happened to ``subject`` (an object's name)."""

    kind: str
    subject: str
    text: str


def moments(plural: str, before: Object | None, after: Object) -> list[Moment]:
    """What ``after`` tells that ``before`` did not. Without ``before`` the story only begins: nothing is told."""
    teller = _TELLERS.get(plural)
    if teller is None or (before is None and plural != "quiescences"):
        return []
    return list(teller(before or {}, after))


def _device(before: Object, after: Object) -> Iterator[Moment]:
    name, node = _name(after), after["spec"].get("nodeName", "")
    was, now = _observation(before), _observation(after)
    if was.get("state") != "Failed" and now.get("state") == "Failed":
        yield Moment("detected", name, f"failure seen: {node} reports that {name} failed: {now.get('message', '')}")
    if was.get("state") == "Failed" and now.get("state") == "Claimed":
        yield Moment("returned", name, f"{name} is back on {node}")
    if _status(before).get("phase") != "Online" and _status(after).get("phase") == "Online":
        yield Moment("online", name, f"{name} on {node} belongs to Millpond now ({_status(after).get('size', '')})")


def _volume(before: Object, after: Object) -> Iterator[Moment]:
    name = _name(after)
    was, now = _legs(before), _legs(after)
    yield from _holds(name, before, after)
    generation, old = _generation(after), _generation(before)
    for leg_id, leg in now.items():
        state, earlier = leg["state"], was.get(leg_id, {}).get("state")
        if state == "Stale" and earlier != "Stale":
            yield Moment("stale", name, f"leg {leg_id} on {leg['node']} is recorded Stale: only now may writes go on")
    for spare in _status(after).get("spares", ()):
        if spare["id"] not in _ids(_status(before).get("spares", ())):
            yield Moment("spare", name, f"a spare is being prepared: leg {spare['id']} on {spare['node']}")
    if generation > old > 0:
        told = ", ".join(
            f"{leg_id} on {leg['node']} ({leg['state']})" for leg_id, leg in now.items() if not leg.get("releasing")
        )
        yield Moment("generation", name, f"new mapping, generation {generation}: {told}")
    yield from _progress(name, before, after)
    for leg_id, leg in now.items():
        earlier = was.get(leg_id, {}).get("state")
        if leg["state"] == "Rebuilding" and earlier not in (None, "Rebuilding"):
            yield Moment("rebuilding", name, f"leg {leg_id} on {leg['node']} is taken back and catches up")
        if leg["state"] == "InSync" and earlier not in (None, "InSync"):
            yield Moment("insync", name, f"in sync: leg {leg_id} on {leg['node']} holds a full copy")


def _holds(name: str, before: Object, after: Object) -> Iterator[Moment]:
    was, now = _paths(before), _paths(after)
    for (node, leg_id), path in now.items():
        earlier = was.get((node, leg_id), {})
        if path.get("path") == "Down" and earlier.get("path") == "Up":
            yield Moment("pathdown", name, f"{node} has lost the path to leg {leg_id}")
        if path.get("holdingSince") and not earlier.get("holdingSince"):
            yield Moment(
                "holding", name, f"{node} holds writes for leg {leg_id}: nothing is acknowledged on one leg alone"
            )


def _progress(name: str, before: Object, after: Object) -> Iterator[Moment]:
    was, now = _running(before), _running(after)
    for (node, leg_id), progress in now.items():
        total = progress.get("totalBytes", 0)
        percent = 100 * progress.get("doneBytes", 0) // total if total else 0
        earlier = was.get((node, leg_id))
        old_total = (earlier or {}).get("totalBytes", 0)
        old = 100 * (earlier or {}).get("doneBytes", 0) // old_total if old_total else -1
        if progress.get("halted"):
            if not (earlier or {}).get("halted"):
                yield Moment("halted", name, f"the rebuild of leg {leg_id} is halted at {percent} %")
        elif percent // 20 > old // 20 or earlier is None:
            kind = {"Delta": "catching up", "Scrub": "scrubbing"}.get(progress.get("kind", ""), "rebuilding")
            yield Moment("progress", name, f"{kind} leg {leg_id}: {percent} %")


def _quiescence(before: Object, after: Object) -> Iterator[Moment]:
    name, status = _name(after), _status(after)
    was, now = _status(before).get("phase", "Pending"), status.get("phase", "Pending")
    reason = after["spec"].get("reason", "")
    if was == "Pending" and now != "Pending":
        nodes = ", ".join(status.get("participants", ())) or "nobody"
        yield Moment("instructed", name, f"quiescence {name} ({reason}): {nodes} are told to go still")
    known = {each["node"] for each in _status(before).get("acknowledgements", ())}
    for each in status.get("acknowledgements", ()):
        if each["node"] not in known:
            yield Moment("acknowledged", name, f"{each['node']} acknowledges: it is still")
    order = ("Pending", "Instructed", "Draining", "Quiesced", "Reconfigured", "Released")
    if now in order and was in order:
        if order.index(was) < 3 <= order.index(now):
            yield Moment("quiesced", name, "everyone concerned is still")
        if now == "Released" and was != now:
            yield Moment("released", name, f"quiescence {name} is released: {status.get('message', '')}")
    if now in ("Expired", "Aborted") and was != now:
        yield Moment("aborted", name, f"quiescence {name}: {now}: {status.get('message', '')}")


_TELLERS = {"storagedevices": _device, "virtualvolumes": _volume, "quiescences": _quiescence}


def _name(found: Object) -> str:
    name: str = found["metadata"]["name"]
    return name


def _status(found: Object) -> Object:
    status: Object = found.get("status") or {}
    return status


def _observation(found: Object) -> Object:
    seen: Object = _status(found).get("observation") or {}
    return seen


def _generation(found: Object) -> int:
    return int(_status(found).get("mapping", {}).get("generation", 0))


def _legs(found: Object) -> dict[str, Object]:
    return {leg["id"]: leg for leg in _status(found).get("mapping", {}).get("legs", ())}


def _ids(legs: Any) -> set[str]:
    return {leg["id"] for leg in legs}


def _paths(found: Object) -> dict[tuple[str, str], Object]:
    nodes = _status(found).get("nodes", ())
    return {(node["node"], path["id"]): path for node in nodes for path in node.get("paths", ())}


def _running(found: Object) -> dict[tuple[str, str], Object]:
    nodes = _status(found).get("nodes", ())
    return {(node["node"], each.get("leg", "")): each for node in nodes for each in node.get("progress", ())}
