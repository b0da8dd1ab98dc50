"""On the wire: status codes, the lock, the log, sockets that stay, registration with the kubelet."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import pytest
import pytest_asyncio

import millpond_csi.server
from millpond_core import errors
from millpond_csi import errors as csi_errors
from millpond_csi.deadline import Deadline
from millpond_csi.health import health
from millpond_csi.identity import Identity
from millpond_csi.interceptors import VolumeLocks
from millpond_csi.registration import Registration
from millpond_csi.server import UNTAKEN_SECONDS, Server, serve, snake_case
from millpond_csi.stubs import csi, registration
from millpond_csi.validation import name_to_id

KINDS = csi.DESCRIPTOR.services_by_name
DELETE = "/csi.v1.Controller/DeleteVolume"
SECRET = "tops3cret"
UNTAKEN = "grpc.server_max_unrequested_time_in_server"


class Controller:
    """Raises ``error``, or waits for ``gate``."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.done: list[str] = []
        self.deadlines: list[float] = []

    async def delete_volume(self, request: Any, deadline: Deadline) -> Any:
        self.deadlines.append(deadline.remaining())
        if self.error is not None:
            raise self.error
        await self.gate.wait()
        self.done.append(request.volume_id)
        return csi.DeleteVolumeResponse()


class Wire:
    def __init__(self, service: Controller, channel: Any) -> None:
        self.service = service
        self.channel = channel

    async def delete(self, volume: str = "pvc-1", *, seconds: float | None = 5.0) -> Any:
        call = self.channel.unary_unary(
            DELETE,
            request_serializer=csi.DeleteVolumeRequest.SerializeToString,
            response_deserializer=csi.DeleteVolumeResponse.FromString,
        )
        return await call(csi.DeleteVolumeRequest(volume_id=volume, secrets={"key": SECRET}), timeout=seconds)


@pytest_asyncio.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    service = Controller()
    server = Server(tmp_path / "csi.sock", [(KINDS["Controller"], service)])
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{server.socket}") as channel:
        yield Wire(service, channel)
    await server.stop(0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Invalid("x"), "INVALID_ARGUMENT"),
        (errors.NotFound("x"), "NOT_FOUND"),
        (errors.Busy("x"), "ABORTED"),
        (errors.Conflict("x"), "ABORTED"),
        (errors.Unavailable("x"), "UNAVAILABLE"),
        (errors.DeadlineExceeded("x"), "DEADLINE_EXCEEDED"),
        (errors.Forbidden("x"), "PERMISSION_DENIED"),
        (errors.CommandFailed(("mkfs",), 1, "x"), "INTERNAL"),
        (csi_errors.NotReady("x"), "ABORTED"),
        (csi_errors.NoRoom("x"), "RESOURCE_EXHAUSTED"),
        (csi_errors.AlreadyExists("x"), "ALREADY_EXISTS"),
        (csi_errors.OutOfRange("x"), "OUT_OF_RANGE"),
        (csi_errors.Refused("x"), "FAILED_PRECONDITION"),
        (ZeroDivisionError("x"), "INTERNAL"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_each_error_has_its_code_and_keeps_its_sentence(wire: Wire, error: Exception, code: str) -> None:
    wire.service.error = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.delete()
    assert caught.value.code().name == code
    assert "x" in caught.value.details()


def test_no_category_of_error_is_forgotten() -> None:
    known = tuple(kind for kind, _ in csi_errors.STATUS)
    for module in (errors, csi_errors):
        for each in vars(module).values():
            if isinstance(each, type) and issubclass(each, errors.MillpondError) and each is not errors.MillpondError:
                assert issubclass(each, known), f"{each.__name__} has no gRPC status"


async def test_a_second_call_for_a_volume_is_told_so_at_once(wire: Wire) -> None:
    wire.service.gate.clear()
    first = asyncio.ensure_future(wire.delete())
    await asyncio.sleep(0.1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.delete()
    assert caught.value.code() == grpc.StatusCode.ABORTED
    assert "DeleteVolume of pvc-1 is still running" in caught.value.details()
    wire.service.gate.set()
    await first
    await wire.delete()
    assert wire.service.done == ["pvc-1", "pvc-1"]


async def test_other_volumes_do_not_wait(wire: Wire) -> None:
    wire.service.gate.clear()
    calls = [asyncio.ensure_future(wire.delete(f"pvc-{i}")) for i in range(3)]
    await asyncio.sleep(0.1)
    wire.service.gate.set()
    await asyncio.gather(*calls)
    assert sorted(wire.service.done) == ["pvc-0", "pvc-1", "pvc-2"]


async def test_a_caller_who_gives_up_leaves_the_call_running_under_its_lock(wire: Wire) -> None:
    """A format that is killed half way is worse than one that nobody waits for."""
    wire.service.gate.clear()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.delete(seconds=0.2)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.delete()
    assert caught.value.code() == grpc.StatusCode.ABORTED
    wire.service.gate.set()
    await asyncio.sleep(0.1)
    assert wire.service.done == ["pvc-1"]
    await wire.delete()


async def test_the_lock_is_free_after_a_failure() -> None:
    locks = VolumeLocks()

    async def fail(request: Any, deadline: Deadline) -> Any:
        raise errors.Invalid("no")

    method = locks.wrap("DeleteVolume", fail)
    for _ in range(2):
        with pytest.raises(errors.Invalid):
            await method(csi.DeleteVolumeRequest(volume_id="a"), Deadline.after(1))


@pytest.mark.parametrize("name", ["pvc-1", "Some Name"])
async def test_a_volume_has_one_lock_whether_it_is_called_by_its_name_or_its_id(name: str) -> None:
    locks, gate = VolumeLocks(), asyncio.Event()

    async def wait(request: Any, deadline: Deadline) -> None:
        await gate.wait()

    create, delete = locks.wrap("CreateVolume", wait), locks.wrap("DeleteVolume", wait)
    first = asyncio.ensure_future(create(csi.CreateVolumeRequest(name=name), Deadline.after(1)))
    await asyncio.sleep(0)
    with pytest.raises(errors.Busy, match=r"CreateVolume of .* is still running"):
        await delete(csi.DeleteVolumeRequest(volume_id=name_to_id(name)), Deadline.after(1))
    gate.set()
    await first
    await create(csi.CreateVolumeRequest(name="x" * 500), Deadline.after(1))


async def test_a_volume_is_attached_while_a_larger_size_is_waited_for() -> None:
    """It may wait for copies that are in sync, and they come to be so only where it is attached."""
    locks, gate = VolumeLocks(), asyncio.Event()

    async def wait(request: Any, deadline: Deadline) -> None:
        await gate.wait()

    async def answer(request: Any, deadline: Deadline) -> str:
        return "done"

    expand, attach = locks.wrap("ControllerExpandVolume", wait), locks.wrap("ControllerPublishVolume", answer)
    first = asyncio.ensure_future(expand(csi.ControllerExpandVolumeRequest(volume_id="a"), Deadline.after(1)))
    await asyncio.sleep(0)
    assert await attach(csi.ControllerPublishVolumeRequest(volume_id="a"), Deadline.after(1)) == "done"
    with pytest.raises(errors.Busy, match="ControllerExpandVolume of a is still running"):
        await expand(csi.ControllerExpandVolumeRequest(volume_id="a"), Deadline.after(1))
    gate.set()
    await first


async def test_the_plugin_says_that_volumes_grow_while_they_are_used() -> None:
    async def ready() -> bool:
        return True

    said = await Identity(ready).get_plugin_capabilities(None, Deadline.after(1))
    kinds = csi.PluginCapability.VolumeExpansion
    assert [each.volume_expansion.type for each in said.capabilities if each.HasField("volume_expansion")] == [
        kinds.ONLINE
    ]


async def test_the_deadline_is_a_little_before_the_callers(wire: Wire) -> None:
    await wire.delete(seconds=10)
    await wire.delete(seconds=None)
    assert 8.5 < wire.service.deadlines[0] < 9.1
    assert 100 < wire.service.deadlines[1] <= 120


async def test_the_log_has_method_volume_duration_and_code_and_no_secret(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="millpond.csi"):
        await wire.delete()
        wire.service.error = errors.NotFound("gone")
        with pytest.raises(grpc.aio.AioRpcError):
            await wire.delete("a" * 5000)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("DeleteVolume volume='pvc-1' 0.") and line.endswith(" OK") for line in lines)
    assert any("NOT_FOUND: gone" in line and len(line) < 400 for line in lines)
    assert not any(SECRET in line for line in lines)


@pytest.mark.parametrize("text", ["a\nb\x1b[2J\x85\u2028\u202e\0", "ä" * 5000, "\U0001f4a5" * 5000, "a" * 200_000])
async def test_a_message_is_one_line_that_every_client_takes(wire: Wire, text: str) -> None:
    """Clients refuse headers of more than 8 KiB, and the text is percent-encoded on its way."""
    wire.service.error = errors.NotFound(f"there is no {text}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.delete()
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    said = caught.value.details()
    assert said.startswith("there is no ")
    assert said.isprintable()
    assert len(quote(said)) < 7000


async def test_what_is_no_message_is_the_callers_fault(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    call = wire.channel.unary_unary(DELETE, request_serializer=bytes, response_deserializer=bytes)
    for sent in (b"\x0a\x02a", b"\x0a\x02\xff\xfe", b"\x07"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(sent, timeout=5)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "DeleteVolumeRequest" in caught.value.details()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_line_in_the_log_has_no_line_feed_of_the_callers(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    wire.service.error = errors.Invalid("no")
    with caplog.at_level(logging.DEBUG), pytest.raises(grpc.aio.AioRpcError):
        await wire.delete("a\n2026-01-01 forged " + "a" * 5000)
    lines = [record.getMessage() for record in caplog.records if record.name == "millpond.csi"]
    assert len(lines) == 2
    assert all("\n" not in line and len(line) < 400 for line in lines)


async def test_the_socket_is_for_its_owner_only(tmp_path: Path) -> None:
    """Whoever can connect can have any volume deleted."""
    server = Server(tmp_path / "made" / "a.sock", [(KINDS["Identity"], Identity(ready))])
    before = os.umask(0)
    try:
        await server.start()
        assert os.umask(0) == 0, "the process's own umask is as it was"
    finally:
        os.umask(before)
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) & 0o022 == 0
    await server.stop(0)


async def test_what_is_not_served_is_unimplemented(wire: Wire) -> None:
    call = wire.channel.unary_unary(
        "/csi.v1.Controller/CreateSnapshot",
        request_serializer=csi.CreateSnapshotRequest.SerializeToString,
        response_deserializer=csi.CreateSnapshotResponse.FromString,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(csi.CreateSnapshotRequest(), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_method_names() -> None:
    assert snake_case("NodeGetVolumeStats") == "node_get_volume_stats"
    assert snake_case("Probe") == "probe"


async def ready() -> bool:
    return True


async def ask(socket: Path, method: str, request: Any, answer: Any) -> Any:
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        call = channel.unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        return await call(request, timeout=5)


async def test_the_kubelet_finds_us_and_tells_us(tmp_path: Path) -> None:
    """As its plugin watcher does: GetInfo on the socket that it found, the driver at the endpoint, then the word."""
    driver = Server(tmp_path / "plugins" / "csi.sock", [(KINDS["Identity"], Identity(ready))])
    known = Registration(driver.socket)
    service = registration.DESCRIPTOR.services_by_name["Registration"]
    registrar = Server(tmp_path / "plugins_registry" / "csi.millpond.io-reg.sock", [(service, known)])
    stopped = asyncio.Event()
    running = asyncio.ensure_future(serve([driver, registrar], stopped, guard_seconds=0.1))
    await asyncio.sleep(0.2)
    prefix = "/pluginregistration.Registration/"
    for _ in range(2):  # the kubelet restarts and asks again
        info = await ask(registrar.socket, f"{prefix}GetInfo", registration.InfoRequest(), registration.PluginInfo)
        assert (info.type, info.name, list(info.supported_versions)) == ("CSIPlugin", "csi.millpond.io", ["1.0.0"])
        name = await ask(
            Path(info.endpoint),
            "/csi.v1.Identity/GetPluginInfo",
            csi.GetPluginInfoRequest(),
            csi.GetPluginInfoResponse,
        )
        assert name.name == info.name
        status = registration.RegistrationStatus(plugin_registered=True)
        await ask(
            registrar.socket,
            f"{prefix}NotifyRegistrationStatus",
            status,
            registration.RegistrationStatusResponse,
        )
        assert known.registered
    refused = registration.RegistrationStatus(plugin_registered=False, error="no")
    await ask(registrar.socket, f"{prefix}NotifyRegistrationStatus", refused, registration.RegistrationStatusResponse)
    assert not known.registered
    stopped.set()
    await asyncio.wait_for(running, 5)
    assert not registrar.socket.exists()


async def test_a_socket_that_someone_removed_comes_back(tmp_path: Path) -> None:
    server = Server(tmp_path / "a.sock", [(KINDS["Identity"], Identity(ready))])
    stopped = asyncio.Event()
    running = asyncio.ensure_future(serve([server], stopped, guard_seconds=0.1))
    await asyncio.sleep(0.2)
    server.socket.unlink()
    assert not server.reachable()
    await asyncio.sleep(0.4)
    answer = await ask(server.socket, "/csi.v1.Identity/Probe", csi.ProbeRequest(), csi.ProbeResponse)
    assert answer.ready.value
    stopped.set()
    await asyncio.wait_for(running, 5)


async def test_a_socket_left_behind_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.sock").touch()
    server = Server(tmp_path / "a.sock", [(KINDS["Identity"], Identity(ready))])
    await server.start()
    assert (await ask(server.socket, "/csi.v1.Identity/Probe", csi.ProbeRequest(), csi.ProbeResponse)).ready.value
    await server.stop(0)


@pytest.mark.parametrize(
    ("untaken", "codes"),
    [(1, {"CANCELLED"}), (UNTAKEN_SECONDS, {"OK"})],
    ids=["gRPC alone, with a second instead of its 30", "ours"],
)
async def test_a_busy_driver_has_its_callers_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untaken: int, codes: set[str]
) -> None:
    options = dict(millpond_csi.server._OPTIONS)
    assert options[UNTAKEN] == UNTAKEN_SECONDS > 300
    monkeypatch.setattr(millpond_csi.server, "_OPTIONS", tuple({**options, UNTAKEN: untaken}.items()))
    server = Server(tmp_path / "a.sock", [(KINDS["Identity"], Identity(ready))])
    await server.start()

    def probe() -> str:
        with grpc.insecure_channel(f"unix:{server.socket}") as channel:
            try:
                channel.unary_unary("/csi.v1.Identity/Probe")(b"", timeout=30)
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    calls = [asyncio.ensure_future(asyncio.to_thread(probe)) for _ in range(4)]
    await asyncio.sleep(0)
    time.sleep(3)  # noqa: ASYNC251  that is the point: nobody takes up what comes
    got = await asyncio.wait_for(asyncio.gather(*calls), 30)
    await server.stop(0)
    assert codes <= set(got) <= codes | {"OK"}


async def healthz(port: int, path: str = "/healthz") -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.decode().split("\r\n")[0]


async def test_liveness_is_whether_the_socket_answers(tmp_path: Path) -> None:
    async def never() -> bool:
        raise AssertionError("liveness must not depend on the API server")

    server = Server(tmp_path / "a.sock", [(KINDS["Identity"], Identity(never))])
    async with health("127.0.0.1:0", server.socket) as port:
        assert await healthz(port) == "HTTP/1.1 503 Service Unavailable"
        await server.start()
        assert await healthz(port) == "HTTP/1.1 200 OK"
        assert await healthz(port, "/etc/passwd") == "HTTP/1.1 404 Not Found"
        await server.stop(0)
        assert await healthz(port) == "HTTP/1.1 503 Service Unavailable"


async def test_no_health_is_served_unless_asked_for(tmp_path: Path) -> None:
    async with health("", tmp_path / "a.sock") as port:
        assert port == 0
