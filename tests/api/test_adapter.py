"""Our adapter when the API server is slow, busy, restarted, forgetful or gone."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from proxy import Proxy

from lab import processes
from lab.api import wait_for
from lab.controlplane import ControlPlane
from millpond_adapters.kube import Access, ApiKube, load, transport
from millpond_adapters.kube.access import FileToken, constant_token, tls
from millpond_adapters.kube.config import in_cluster
from millpond_adapters.kube.objects import Codec
from millpond_core.errors import Busy, Conflict, DeadlineExceeded, Forbidden, Invalid, Unavailable
from millpond_core.model import ObjectMeta, VirtualVolume
from millpond_core.model.virtualvolume import VirtualVolumeSpec

Stream = AsyncIterator[tuple[str, VirtualVolume]]


def volume(name: str) -> VirtualVolume:
    return VirtualVolume(metadata=ObjectMeta(name=name), spec=VirtualVolumeSpec(size="1Gi"))


async def take(stream: Stream, count: int, seconds: float = 20) -> list[tuple[str, str]]:
    async with asyncio.timeout(seconds):
        return [(verb, obj.metadata.name) for verb, obj in [await anext(stream) for _ in range(count)]]


@asynccontextmanager
async def through(plane: ControlPlane) -> AsyncIterator[tuple[ApiKube, Proxy]]:
    """An adapter that reaches the API server by a link that can be cut."""
    async with Proxy(plane.port) as proxy:
        access = dataclasses.replace(load(str(plane.kubeconfig)), server=f"https://127.0.0.1:{proxy.port}")
        async with ApiKube(access, component="millpond-proxied") as client:
            yield client, proxy


def restart(plane: ControlPlane) -> None:
    """Kill the API server and start it again on its port. What its watches knew is gone with it."""
    server = next(d for d in processes.below(plane.folder) if d.name == "kube-apiserver")
    argv = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")[:-1]
    server.end(grace=0)
    processes.start(argv, plane.folder, "kube-apiserver", with_us=True)
    wait_for(lambda: plane.api.request("GET", "/readyz", seconds=2) == "ok", "the API server is back", seconds=60)


async def test_a_watch_goes_on_where_it_broke_off(plane: ControlPlane, kube: ApiKube) -> None:
    await kube.create(volume("a"))
    async with through(plane) as (client, proxy):
        stream = client.watch(VirtualVolume)
        assert await take(stream, 2) == [("ADDED", "a"), ("SYNCED", "")]
        await kube.create(volume("b"))
        assert await take(stream, 1) == [("ADDED", "b")]
        proxy.cut()
        await kube.create(volume("c"))
        await kube.delete(VirtualVolume, "a")
        proxy.mend()
        assert await take(stream, 2) == [("ADDED", "c"), ("DELETED", "a")], "no relist: nothing is told twice"


async def test_a_watch_survives_a_restart_and_tells_what_vanished(plane: ControlPlane, kube: ApiKube) -> None:
    await kube.create(volume("a"))
    await kube.create(volume("b"))
    async with through(plane) as (client, proxy):
        stream = client.watch(VirtualVolume)
        await take(stream, 3)
        proxy.cut()
        await kube.delete(VirtualVolume, "a")
        restart(plane)  # in this thread: the server dies with the one that starts it
        # Its new cache begins after our version: 410, and only the relist can tell that a is gone.
        proxy.mend()
        assert await take(stream, 3) == [("ADDED", "b"), ("DELETED", "a"), ("SYNCED", "")]
        await kube.create(volume("c"))
        assert await take(stream, 1) == [("ADDED", "c")]


async def test_a_dead_link_is_noticed(plane: ControlPlane, kube: ApiKube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SILENCE_SECONDS", 1.0)
    async with through(plane) as (client, proxy):
        stream = client.watch(VirtualVolume)
        assert await take(stream, 1) == [("SYNCED", "")]
        proxy.silent = True
        await kube.create(volume("a"))
        waiting = asyncio.ensure_future(take(stream, 1))
        await asyncio.sleep(1.2)
        assert client.silence() > 1
        proxy.silent = False
        assert await waiting == [("ADDED", "a")]


async def test_what_cannot_be_read_is_not_gone(
    kube: ApiKube, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An object that a newer version wrote is skipped with an error, and no DELETED is made up for it."""
    await kube.create(volume("a"))
    stream = kube.watch(VirtualVolume)
    await take(stream, 2)
    real = Codec.decode

    def refuses(self: Codec[Any], data: bytes) -> Any:
        found = real(self, data)
        if found.metadata.labels:
            raise Invalid("VirtualVolume 'a' cannot be read: it is from the future")
        return found

    monkeypatch.setattr(Codec, "decode", refuses)
    patch = {"metadata": {"labels": {"from": "the-future"}}}
    merge = "application/merge-patch+json"
    await kube.raw("PATCH", "/apis/millpond.io/v1alpha1/virtualvolumes/a", patch, content_type=merge)
    await kube.create(volume("b"))
    assert await take(stream, 1) == [("ADDED", "b")]
    assert "it is left as it was last seen" in caplog.text


# --- a server that answers what it is told to ------------------------------------------------------------------------


class Scripted:
    """Answers one after the other, the last one for ever; notes who asked for what."""

    def __init__(self, *answers: web.Response | float) -> None:
        self._answers = list(answers)
        self.asked: list[web.Request] = []
        self.tokens: list[str] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.BaseRequest)
        self.asked.append(request)  # type: ignore[arg-type]
        self.tokens.append(request.headers.get("Authorization", ""))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return web.Response(text="{}")
        return web.Response(status=answer.status, text=answer.text, headers=answer.headers)


def refusal(code: int, **headers: str) -> web.Response:
    body = json.dumps({"kind": "Status", "code": code, "message": f"refused with {code}"})
    return web.Response(status=code, text=body, headers=headers)


OK = web.Response(text=json.dumps({"metadata": {"name": "a"}, "spec": {"size": "1Gi"}}))


@asynccontextmanager
async def scripted(*answers: web.Response | float, token: Any = None) -> AsyncIterator[tuple[ApiKube, Scripted]]:
    script = Scripted(*answers)
    server = web.ServerRunner(web.Server(script), shutdown_timeout=0.1)  # type: ignore[arg-type]
    await server.setup()
    try:
        site = web.TCPSite(server, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        access = Access(server=f"http://127.0.0.1:{port}", tls=tls, token=token or constant_token("s3cr3t-token"))
        async with ApiKube(access, component="millpond-scripted") as client:
            yield client, script
    finally:
        await server.cleanup()


async def test_a_busy_server_is_asked_again_when_it_says() -> None:
    async with scripted(refusal(429, **{"Retry-After": "1"}), OK) as (client, script):
        began = time.monotonic()
        await client.create(volume("a"))
        assert time.monotonic() - began >= 1
        assert len(script.asked) == 2


@pytest.mark.parametrize("code", [500, 502, 503, 504])
async def test_only_what_may_be_done_twice_is_done_twice(code: int) -> None:
    async with scripted(refusal(code), OK) as (client, script):
        await client.get(VirtualVolume, "a")
        assert len(script.asked) == 2
    async with scripted(refusal(code), OK) as (client, script):
        with pytest.raises((Unavailable, DeadlineExceeded), match="refused with"):
            await client.patch(VirtualVolume, "a", [{"op": "test", "path": "/spec/size", "value": "1Gi"}])
        assert len(script.asked) == 1


async def test_each_refusal_has_its_error() -> None:
    for code, error in ((403, Forbidden), (409, Conflict), (400, Invalid), (413, Invalid), (429, Busy)):
        async with scripted(refusal(code, **{"Retry-After": "60"})) as (client, _):
            with pytest.raises(error, match=f"GET /apis/millpond.io/v1alpha1/virtualvolumes/a: refused with {code}"):
                await client.get(VirtualVolume, "a")


async def test_no_answer_is_an_unknown_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millpond_adapters.kube.events.CALL_SECONDS", 0.2)
    async with scripted(30.0) as (client, _):
        with pytest.raises(DeadlineExceeded, match="whether it was done is unknown"):
            await client.renew_lease("l", "me", 1)
        began = time.monotonic()
        await client.event(volume("a"), reason="R", message="an Event is never worth an error")
        assert time.monotonic() - began < 5


async def test_nobody_there() -> None:
    access = Access(server="http://127.0.0.1:1", tls=tls, token=constant_token(""))
    async with ApiKube(access, component="millpond-alone") as client:
        with pytest.raises(Unavailable, match="cannot connect"):
            await client.renew_lease("l", "me", 1)


async def test_a_rotated_token_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old\n")
    async with scripted(OK, refusal(401), OK, token=FileToken(path)) as (client, script):
        await client.get(VirtualVolume, "a")
        path.write_text("new\n")
        await client.get(VirtualVolume, "a")
        assert script.tokens == ["Bearer old", "Bearer old", "Bearer new"]


async def test_no_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted(refusal(401), refusal(403), refusal(503)) as (client, script):
        with pytest.raises(Forbidden) as refused:
            await client.get(VirtualVolume, "a")
        assert "s3cr3t" not in caplog.text + str(refused.value) + repr(client.__dict__)
        assert script.tokens[0] == "Bearer s3cr3t-token"


# --- where the server is ---------------------------------------------------------------------------------------------


async def test_a_kubeconfig_may_be_yaml_with_files_and_several(plane: ControlPlane, tmp_path: Path) -> None:
    config = json.loads(plane.kubeconfig.read_text())
    user = {"client-certificate": "admin.crt", "client-key": "admin.key"}
    for name in user.values():
        (tmp_path / name).write_text((plane.folder / name).read_text())
    (tmp_path / "users.yaml").write_text(yaml.safe_dump({"users": [{"name": "me", "user": user}]}))
    context = {"name": "mine", "context": {"cluster": "lab", "user": "me", "namespace": "shop"}}
    del config["users"], config["contexts"], config["current-context"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "contexts": [context], "current-context": "mine"}))
    access = load(f"{tmp_path}/users.yaml:{tmp_path}/config.yaml")
    assert access.namespace == "shop"
    async with ApiKube(access, component="millpond-yaml") as client:
        assert (await client.raw("GET", "/api/v1/namespaces/default"))["metadata"]["name"] == "default"


async def test_a_credential_plugin_gives_the_token(tmp_path: Path) -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", 'echo "{\\"status\\": {\\"token\\": \\"$GREETING\\"}}"'],
        "env": [{"name": "GREETING", "value": "hello"}],
    }
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"exec": plugin}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    (tmp_path / "config").write_text(json.dumps(config))
    assert await load(str(tmp_path / "config")).token(False) == "hello"


def test_a_pod_finds_its_api_server(plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    with pytest.raises(Invalid, match="no ServiceAccount token"):
        in_cluster(tmp_path)
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("millpond-system\n")
    (tmp_path / "ca.crt").write_text((plane.folder / "ca.crt").read_text())
    access = in_cluster(tmp_path)
    assert (access.server, access.namespace) == ("https://10.96.0.1:443", "millpond-system")
    assert access.tls() is access.tls()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read the kubeconfig"),
        ("][", "neither JSON nor YAML"),
        ("42", "is no kubeconfig"),
        ("{}", "has no context ''; there is none"),
        (
            '{"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c"}}]}',
            "names cluster 'c', which has no server",
        ),
    ],
)
def test_a_bad_kubeconfig_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Invalid, match=says) as refused:
        load(str(path))
    assert str(path) in str(refused.value)
