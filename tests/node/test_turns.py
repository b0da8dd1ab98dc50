"""Turns: a few at a time, those first that began first."""

from __future__ import annotations

import asyncio

from millpond_node.turns import Turns


async def test_the_lowest_place_is_next_and_no_turn_is_lost() -> None:
    turns, order = Turns(1), list[str]()

    async def one(name: str, place: float, *, fails: bool = False) -> None:
        async with turns.turn(place):
            order.append(name)
            await asyncio.sleep(1)
            if fails:
                raise RuntimeError(name)

    first = asyncio.create_task(one("first", 9, fails=True))
    await asyncio.sleep(0)
    assert turns.taken
    others = [asyncio.create_task(one(name, place)) for name, place in (("c", 3), ("a", 1), ("b", 2), ("a again", 1))]
    await asyncio.sleep(0)
    others[2].cancel()
    await asyncio.gather(first, *others, return_exceptions=True)
    assert order == ["first", "a", "a again", "c"]
    assert not turns.taken


async def test_who_is_cancelled_with_the_turn_in_hand_passes_it_on() -> None:
    turns, done = Turns(1), list[str]()

    async def one(name: str) -> None:
        async with turns.turn(0):
            done.append(name)

    async with turns.turn(0):
        given, next_one = asyncio.create_task(one("given")), asyncio.create_task(one("next"))
        await asyncio.sleep(0)
    given.cancel()  # it has the turn, and has not run since
    await asyncio.gather(given, next_one, return_exceptions=True)
    assert done == ["next"]
    assert not turns.taken
