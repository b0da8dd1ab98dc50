"""How to reach and convince an API server: its address, its certificate authority, our credentials.

Credentials come from files that others rotate, so they are read again and again; none is ever logged.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from millpond_core.errors import Forbidden, Invalid

REREAD_SECONDS = 60.0
"""A rotated token is valid for minutes beyond its rotation (kubelet: 80 % of its life)."""

PLUGIN_SECONDS = 60.0

TokenSource = Callable[[bool], Awaitable[str]]
"""Gives the bearer token; called with True when the last one was refused. Empty: none is sent."""


@dataclass(frozen=True)
class Access:
    """Where the API server is and who we are."""

    server: str
    """``https://host:port``, without a slash at the end."""
    tls: Callable[[], ssl.SSLContext]
    """The context for the next connection; a new one when the files behind it have changed."""
    token: TokenSource
    namespace: str = "default"
    server_name: str = ""
    """Name to expect in the server's certificate; empty: the host."""


@dataclass
class FileToken:
    """A token in a file that is rotated."""

    path: Path
    _token: str = field(default="", repr=False)
    _read: float = -REREAD_SECONDS

    async def __call__(self, refused: bool) -> str:
        now = time.monotonic()
        if refused or now - self._read >= REREAD_SECONDS:
            try:
                self._token, self._read = self.path.read_text().strip(), now
            except OSError as error:
                raise Forbidden(f"cannot read the token {self.path}: {error.strerror}") from error
        return self._token


@dataclass
class PluginToken:
    """A token from a credential plugin (client.authentication.k8s.io), until it expires."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    api_version: str
    _token: str = field(default="", repr=False)
    _until: float = 0.0

    async def __call__(self, refused: bool) -> str:
        if refused or time.time() > self._until:
            status = await self._run()
            self._token = status.get("token", "")
            expires = status.get("expirationTimestamp")
            self._until = datetime.fromisoformat(expires).timestamp() - 30 if expires else float("inf")
        return self._token

    async def _run(self) -> dict[str, Any]:
        info = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": {"interactive": False}}
        environment = {**os.environ, **self.environment, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        try:
            child = await asyncio.create_subprocess_exec(
                *self.argv, env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
            )
        except OSError as error:
            raise Invalid(f"cannot run the credential plugin {self.argv[0]}: {error.strerror}") from error
        try:
            output, _ = await asyncio.wait_for(child.communicate(), PLUGIN_SECONDS)
        except TimeoutError:
            raise Forbidden(f"the credential plugin {self.argv[0]} took more than {PLUGIN_SECONDS:.0f} s") from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode != 0:
            raise Forbidden(f"the credential plugin {self.argv[0]} failed with exit status {child.returncode}")
        try:
            status: dict[str, Any] = json.loads(output)["status"]
        except (ValueError, KeyError, TypeError):
            raise Forbidden(f"the credential plugin {self.argv[0]} printed no ExecCredential") from None
        return status


def constant_token(token: str) -> TokenSource:
    """A token that never changes; empty for none."""

    async def source(_refused: bool) -> str:
        return token

    return source


class FileTls:
    """A TLS context that trusts a file's certificates, made anew when the file is replaced."""

    def __init__(self, authority: Path) -> None:
        self._authority = authority
        self._stamp = 0.0
        self._context: ssl.SSLContext | None = None

    def __call__(self) -> ssl.SSLContext:
        stamp = self._authority.stat().st_mtime
        if self._context is None or stamp != self._stamp:
            self._context, self._stamp = tls(authority=self._authority.read_text()), stamp
        return self._context


def tls(*, authority: str = "", certificate: str = "", key: str = "", verify: bool = True) -> ssl.SSLContext:
    """A context that trusts ``authority`` (PEM; empty: the system's) and shows a client certificate (PEM)."""
    context = ssl.create_default_context(cadata=authority or None)
    if not verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        with tempfile.NamedTemporaryFile("w") as pem:  # ssl reads a client's key from a file only; mode 0600
            pem.write(f"{certificate}\n{key}\n")
            pem.flush()
            context.load_cert_chain(pem.name)
    return context
