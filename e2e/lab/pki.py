"""Certificates and kubeconfigs for a lab, made with ``openssl``. Elliptic keys: TLS in a guest under TCG is slow."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import packages
from lab.command import run

DAYS = "3650"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Identity:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"

    def create(self) -> None:
        """Make the authority's own key and certificate."""
        packages.ensure("openssl")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._request("ca", "/CN=lab", ["-addext", "keyUsage=critical,keyCertSign,digitalSignature"])

    def issue(self, name: str, user: str, *, group: str = "", hosts: Sequence[str] = ()) -> Identity:
        """A certificate for Kubernetes user ``user`` in ``group``, which may also serve as ``hosts``
        (``DNS:name``, ``IP:address``)."""
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        extensions = ["-CA", str(self.certificate), "-CAkey", str(self.folder / "ca.key")]
        extensions += ["-addext", f"subjectAltName={','.join(hosts or ['DNS:' + name])}"]
        extensions += ["-addext", "extendedKeyUsage=serverAuth,clientAuth", "-addext", "basicConstraints=CA:FALSE"]
        return self._request(name, subject, extensions)

    def kubeconfig(self, name: str, identity: Identity, server: str) -> Path:
        """Write ``<name>.kubeconfig`` for ``server`` (``https://host:port``) and return its path."""

        def packed(path: Path) -> str:
            return base64.b64encode(path.read_bytes()).decode()

        cluster = {"server": server, "certificate-authority-data": packed(self.certificate)}
        user = {"client-certificate-data": packed(identity.certificate), "client-key-data": packed(identity.key)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
            "current-context": "lab",
        }
        path = self.folder / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))  # JSON is YAML
        return path

    def _request(self, name: str, subject: str, extensions: Sequence[str]) -> Identity:
        identity = Identity(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        files: list[str | Path] = ["-keyout", identity.key, "-out", identity.certificate]
        run(["openssl", "req", "-x509", *_KEY, "-subj", subject, "-days", DAYS, *files, *extensions], seconds=30)
        return identity
