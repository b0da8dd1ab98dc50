"""What happens without any of our processes: reads and writes, md, the bitmap, disks, links, power.

As it was measured (``kernel-facts``), the unkind parts included: a write in flight when md saw an error is acknowledged
before anyone was asked; a leg is called in sync when md has nothing noted for it; a disk without power forgets what was
not flushed; a write of the bitmap flushes the leg that it goes to (``md_super_write``: PREFLUSH and FUA).

A path is noticed to be down at once, and only a reinstatement takes it up again. A write whose bit is set on every
member reaches them one by one, then a flush does; "acknowledged" means that the flush has returned.
"""

from __future__ import annotations

from collections.abc import Iterator

from state import (
    ACTIVE,
    DELTA,
    FAILING,
    FAULTY,
    FULL,
    IN,
    LEGS,
    LIVES,
    NODES,
    NOTHING,
    RUNNING,
    WALLED,
    Data,
    Disk,
    Flight,
    LegStack,
    Life,
    Node,
    Size,
    State,
    on_leg,
    put,
)

Event = tuple[str, State]


def leads(size: Size, state: State, n: int, leg: int) -> bool:
    """Whether the path to a leg leads to a disk that answers, in the life that the path was made for."""
    node, disk, owner = state.nodes[n], state.disks[leg], size.places[leg]
    target = node.legs[leg].target
    if target is None or not disk.present or disk.life != target[1]:
        return False
    if owner == n:
        return target[0] == 0 and node.mapped[leg] == target[1]
    peer, stack = state.nodes[owner], node.legs[leg]
    return state.link and peer.up and stack.connected == target and offers(peer, leg, target)


def offers(peer: Node, leg: int, target: Life) -> bool:
    return any(export[:2] == target for export in peer.exports[leg])


def reached(size: Size, state: State, n: int, leg: int) -> bool:
    """Whether I/O reaches the leg: its gate sees an active path, and that is true."""
    stack = state.nodes[n].legs[leg]
    return bool(stack.gate) and stack.up and leads(size, state, n, leg)


def settle(size: Size, state: State) -> State:
    """Connections that a node refuses are gone, paths that lead nowhere are down."""
    for n, node in enumerate(state.nodes):
        for leg, stack in enumerate(node.legs):
            peer = state.nodes[size.places[leg]]
            if stack.connected and state.link and peer.up and not offers(peer, leg, stack.connected):
                state = on_leg(state, n, leg, connected=None)
    for n, node in enumerate(state.nodes):
        for leg, stack in enumerate(node.legs):
            if stack.up and not leads(size, state, n, leg):
                state = on_leg(state, n, leg, up=False)
    return state


def dropped(state: State, n: int, leg: int) -> State:
    """md calls a member faulty: what was in flight does not wait for it any more."""
    flight = state.flights[n]
    if flight is not None and leg in flight.waiting:
        flight = flight._replace(waiting=flight.waiting - {leg})
    return on_leg(state, n, leg, member=FAULTY)._replace(flights=put(state.flights, n, flight))


def members(node: Node) -> list[int]:
    return [leg for leg, stack in enumerate(node.legs) if stack.member in (IN, FULL, DELTA)]


def whole(node: Node, memory_slots: int) -> bool:
    """Whether the array has every member that it has a place for."""
    return sum(stack.member == IN for stack in node.legs) >= memory_slots


def events(size: Size, state: State, slots: list[int]) -> Iterator[Event]:
    """Everything that may happen next. ``slots``: places in the array of each node."""
    for n, node in enumerate(state.nodes):
        if node.severing and state.flights[n] is None:
            walled = node._replace(front=WALLED, severing=False)
            yield f"the front on {NODES[n]} is on the wall", state._replace(nodes=put(state.nodes, n, walled))
        if node.up and node.array != NOTHING:
            yield from _io(size, state, n)
            yield from _md(size, state, n, slots[n])
    if state.faults:
        yield from _faults(size, state)
    yield from _healing(size, state)


# --- reads and writes ---


def _io(size: Size, state: State, n: int) -> Iterator[Event]:
    node, flight = state.nodes[n], state.flights[n]
    if flight is None:
        yield from _begin(size, state, n)
        return
    for leg in flight.waiting:
        if not reached(size, state, n, leg):
            continue
        left = flight._replace(waiting=flight.waiting - {leg})
        data = state.data[leg]
        if flight.flushing:
            data = data._replace(durable=data.content)
        else:
            data = data._replace(content=flight.number)
            left = left._replace(taken=flight.taken or node.legs[leg].member == IN)
        wrong = state.wrong
        if leg in state.given_away:
            wrong = f"a write reaches the extents of leg {LEGS[leg]}, which belong to another volume by now"
        what = "flush" if flight.flushing else f"write {flight.number}"
        yield (
            f"{what} from {NODES[n]} reaches {LEGS[leg]}",
            state._replace(data=put(state.data, leg, data), flights=put(state.flights, n, left), wrong=wrong),
        )
    if flight.waiting:
        return
    there = members(node)
    if not flight.flushing:
        if flight.taken:
            more = flight._replace(waiting=frozenset(there), flushing=True)
            yield f"flush from {NODES[n]} begins", state._replace(flights=put(state.flights, n, more))
        else:
            yield f"write {flight.number} fails", state._replace(flights=put(state.flights, n, None))
        return
    done = state._replace(flights=put(state.flights, n, None))
    # md tells of no error of a flush (md_end_flush): only a gate that holds keeps a flush that failed from succeeding.
    if flight.owned:
        yield (
            f"write {flight.number} is acknowledged",
            done._replace(acknowledged=max(state.acknowledged, flight.number)),
        )
    else:
        yield f"write {flight.number} ends, nobody is told of a success", done


def _begin(size: Size, state: State, n: int) -> Iterator[Event]:
    """A write starts: its bit goes to every member first, so one that cannot be reached keeps all waiting."""
    node = state.nodes[n]
    there = members(node)
    if not (node.front == ACTIVE and not node.severing and node.open and state.started[n] < size.writes[n] and there):
        return
    if any(stack.member == FAULTY for stack in node.legs):
        return  # md waits to be answered
    data = state.data
    if not state.dirty[n]:
        if not all(reached(size, state, n, leg) for leg in there):
            return
        for leg in there:
            data = put(data, leg, data[leg]._replace(bit=True))
    number = sum(state.started) + 1
    flight = Flight(number, frozenset(there))
    yield (
        f"write {number} starts on {NODES[n]}",
        state._replace(
            started=put(state.started, n, state.started[n] + 1),
            data=data,
            dirty=put(state.dirty, n, True),
            flights=put(state.flights, n, flight),
        ),
    )


# --- md ---


def _md(size: Size, state: State, n: int, slots: int) -> Iterator[Event]:
    node, flight = state.nodes[n], state.flights[n]
    written = flight is None or (not flight.waiting and not flight.flushing)
    for leg, stack in enumerate(node.legs):
        if stack.member in (IN, FULL, DELTA) and stack.gate == FAILING and not stack.up:
            yield f"md on {NODES[n]} sees an error of {LEGS[leg]}", dropped(state, n, leg)
        if stack.member in (FULL, DELTA) and node.array == RUNNING and (written or (flight and flight.flushing)):
            yield from _copied(size, state, n, leg)
        bit = state.data[leg].bit and not state.dirty[n] and stack.member == IN and written
        if bit and reached(size, state, n, leg):
            data = state.data[leg]
            clean = Data(data.content, data.content, False)
            yield f"the bit on {LEGS[leg]} is cleared", state._replace(data=put(state.data, leg, clean))
    if size.clears and state.dirty[n] and written and whole(node, slots):
        yield f"md on {NODES[n]} forgets the bit", state._replace(dirty=put(state.dirty, n, False))


def _copied(size: Size, state: State, n: int, leg: int) -> Iterator[Event]:
    node = state.nodes[n]
    if not reached(size, state, n, leg):
        return
    done = on_leg(state, n, leg, member=IN)
    if node.legs[leg].member == DELTA and not state.dirty[n]:
        yield f"md on {NODES[n]} has nothing noted for {LEGS[leg]}: in sync", done
        return
    for source in [s for s in members(node) if node.legs[s].member == IN and reached(size, state, n, s)]:
        data = state.data[leg]._replace(content=state.data[source].content)
        yield (
            f"md on {NODES[n]} has copied {LEGS[source]} to {LEGS[leg]}",
            done._replace(data=put(state.data, leg, data)),
        )


# --- faults, and their end ---


def spent(size: Size, state: State, kind: str) -> State:
    """One fault fewer may happen."""
    return state._replace(faults=state.faults - 1, kinds=state.kinds - {kind} if size.once else state.kinds)


def _faults(size: Size, state: State) -> Iterator[Event]:
    if "pull" in state.kinds:
        after = spent(size, state, "pull")
        for leg, disk in enumerate(state.disks):
            if disk.present and leg in size.disks:
                yield f"the disk of {LEGS[leg]} is pulled", settle(size, _without_power(after, leg, present=False))
    if "cut" in state.kinds and state.link:
        yield "the link is cut", settle(size, spent(size, state, "cut")._replace(link=False))
    for n, node in enumerate(state.nodes):
        if "crash" in state.kinds and node.up and n in size.crashing:
            yield f"{NODES[n]} loses power", settle(size, crashed(size, spent(size, state, "crash"), n))
        if "partition" in state.kinds and node.up and node.reaches:
            cut = node._replace(reaches=False, seen=node.seen or state.volume)
            after = spent(size, state, "partition")
            yield f"{NODES[n]} does not reach the API server", after._replace(nodes=put(state.nodes, n, cut))
        if "kill" in state.kinds and node.up and node.pending:
            killed = node._replace(pending=0, seen=0 if node.reaches else node.seen)
            after = spent(size, state, "kill")
            yield f"the state manager of {NODES[n]} is killed", after._replace(nodes=put(state.nodes, n, killed))


def _without_power(state: State, leg: int, *, present: bool) -> State:
    data, disk = state.data[leg], state.disks[leg]
    return state._replace(
        data=put(state.data, leg, data._replace(content=data.durable)),
        disks=put(state.disks, leg, disk._replace(present=present and disk.present)),
    )


def crashed(size: Size, state: State, n: int) -> State:
    """The kernel forgets, and so does everything under /run; disks keep what was flushed."""
    empty = Node(
        up=False,
        reaches=state.nodes[n].reaches,
        failed=state.nodes[n].failed,
        boot=state.nodes[n].boot,
        legs=(LegStack(),) * len(size.places),
        mapped=(-1,) * len(size.places),
        exports=((),) * len(size.places),
    )
    state = state._replace(
        nodes=put(state.nodes, n, empty),
        flights=put(state.flights, n, None),
        dirty=put(state.dirty, n, False),
    )
    for leg, place in enumerate(size.places):
        if place == n:
            state = _without_power(state, leg, present=True)
    return state


def _healing(size: Size, state: State) -> Iterator[Event]:
    for leg, disk in enumerate(state.disks):
        if not disk.present and state.nodes[size.places[leg]].up:
            back = disk._replace(present=True, life=disk.life + 1)
            yield f"the disk of {LEGS[leg]} is back", state._replace(disks=put(state.disks, leg, back))
    if not state.link:
        yield "the link is back", settle(size, state._replace(link=True))
    for n, node in enumerate(state.nodes):
        if not node.up:
            yield f"{NODES[n]} boots", settle(size, _booted(size, state, n))
        elif not node.reaches:
            there = node._replace(reaches=True, seen=node.seen if node.pending else 0)
            yield f"{NODES[n]} reaches the API server again", state._replace(nodes=put(state.nodes, n, there))


def _booted(size: Size, state: State, n: int) -> State:
    node = state.nodes[n]
    disks = tuple(
        Disk(disk.present, (node.boot + 1) * LIVES + disk.life % LIVES + 1, disk.label) if place == n else disk
        for place, disk in zip(size.places, state.disks, strict=True)
    )
    there = node._replace(up=True, boot=node.boot + 1)
    return state._replace(nodes=put(state.nodes, n, there), disks=disks)
