"""Calls of the CSI, a few at a time, as the sidecars and the kubelet make them; in a guest: ``python3 -m bench.calls``.

That reads one ``Work`` as JSON and prints one ``Answer`` a line. What is answered with "not yet" is asked again, as
they would: a call lasts from its first attempt to its answer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import grpc.aio
import msgspec
from google.protobuf import json_format, message_factory

from millpond_csi.stubs import csi

AGAIN = frozenset({grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE})
PAUSE_SECONDS = 1.0
"""Before the next attempt: how long the sidecars and the kubelet wait at first."""


class Work(msgspec.Struct, frozen=True):
    """Requests of one method: protobuf's JSON, with the names of the .proto."""

    socket: str
    method: str
    """``Service/Method``."""
    requests: list[dict[str, Any]]
    at_once: int
    attempt_seconds: float
    seconds: float
    """For one call, all its attempts."""


class Answer(msgspec.Struct, frozen=True):
    """What came of the request of that number."""

    number: int
    seconds: float
    ended: float
    """Seconds since the first of all was begun."""
    attempts: int
    response: dict[str, Any] = {}
    error: str = ""
    """Empty: there is none."""


async def make(work: Work, told: Callable[[Answer], None]) -> None:
    """Make all calls; each answer is told as it comes. After an error none is begun any more."""
    began, waiting = time.monotonic(), iter(enumerate(work.requests))
    ended = False
    async with grpc.aio.insecure_channel(f"unix:{work.socket}") as channel:
        call = _method(channel, work.method)

        async def some() -> None:
            nonlocal ended
            for number, request in waiting:
                if ended:
                    return
                answer = await _one(call, work, began, number, request)
                ended = ended or bool(answer.error)
                told(answer)

        await asyncio.gather(*(some() for _ in range(work.at_once)))


def _method(channel: Any, method: str) -> Callable[..., Any]:
    """Takes a request as JSON has it and a timeout; gives the answer as JSON has it."""
    service, _, name = method.partition("/")
    described = csi.DESCRIPTOR.services_by_name[service].methods_by_name[name]
    request, response = map(message_factory.GetMessageClass, (described.input_type, described.output_type))
    call = channel.unary_unary(
        f"/{csi.DESCRIPTOR.package}.{method}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )

    async def made(content: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        answer = await call(json_format.ParseDict(dict(content), request()), timeout=timeout)
        return json_format.MessageToDict(answer, preserving_proto_field_name=True)

    return made


async def _one(call: Callable[..., Any], work: Work, began: float, number: int, request: Mapping[str, Any]) -> Answer:
    first, attempts = time.monotonic(), 0
    response: dict[str, Any] = {}
    while True:
        attempts += 1
        error = ""
        try:
            response = await call(request, work.attempt_seconds)
        except grpc.aio.AioRpcError as failure:
            error = f"{work.method} of {request.get('volume_id') or request.get('name')}: {failure.code().name}: "
            error += failure.details() or ""
            if failure.code() in AGAIN and time.monotonic() < first + work.seconds:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
        now = time.monotonic()
        return Answer(number, now - first, now - began, attempts, response, error)


def main() -> None:
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=Work)

    def told(answer: Answer) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()

    asyncio.run(make(work, told))


if __name__ == "__main__":
    main()
