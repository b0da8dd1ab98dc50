"""Finds the API server: a kubeconfig, or the ServiceAccount of the pod that we run in."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from millpond_adapters.kube.access import Access, FileTls, FileToken, PluginToken, TokenSource, constant_token, tls
from millpond_core.errors import Invalid

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def load(kubeconfig: str = "", context: str = "") -> Access:
    """The access to use: ``kubeconfig``, ``$KUBECONFIG``, the pod's ServiceAccount, ``~/.kube/config``, in this order.

    Raises Invalid that says what was looked for.
    """
    named = kubeconfig or os.environ.get("KUBECONFIG", "")
    if named:
        return from_kubeconfig(named, context)
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        return in_cluster()
    default = Path.home() / ".kube/config"
    if not default.exists():
        raise Invalid(f"no cluster to talk to: set KUBECONFIG, or write {default}")
    return from_kubeconfig(str(default), context)


def in_cluster(folder: Path = SERVICE_ACCOUNT) -> Access:
    """Access with a pod's ServiceAccount. Its token is rotated, its authority may be."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (folder / "token").exists():
        raise Invalid(f"this pod has no ServiceAccount token in {folder}: set automountServiceAccountToken")
    bracketed = f"[{host}]" if ":" in host else host
    return Access(
        server=f"https://{bracketed}:{port}",
        tls=FileTls(folder / "ca.crt"),
        token=FileToken(folder / "token"),
        namespace=(folder / "namespace").read_text().strip(),
    )


def from_kubeconfig(named: str, context: str = "") -> Access:
    """Access from one kubeconfig, or from several separated by colons: the first that says something counts."""
    merged = _merged([Path(part) for part in named.split(os.pathsep) if part])
    name = context or merged["current-context"]
    if name not in merged["contexts"]:
        known = ", ".join(merged["contexts"]) or "none"
        raise Invalid(f"{named} has no context {name!r}; there is {known}")
    chosen = merged["contexts"][name]
    cluster, user = merged["clusters"].get(chosen.get("cluster")), merged["users"].get(chosen.get("user"), {})
    if cluster is None or "server" not in cluster:
        raise Invalid(f"{named}: context {name!r} names cluster {chosen.get('cluster')!r}, which has no server")
    return Access(
        server=cluster["server"].rstrip("/"),
        tls=_tls(cluster, user),
        token=_token(user),
        namespace=chosen.get("namespace") or "default",
        server_name=cluster.get("tls-server-name", ""),
    )


def _merged(paths: list[Path]) -> dict[str, Any]:
    merged: dict[str, Any] = {"clusters": {}, "users": {}, "contexts": {}, "current-context": ""}
    for path in paths:
        document = _read(path)
        for plural, singular in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
            for entry in document.get(plural) or ():
                content = {**(entry.get(singular) or {}), "folder": path.absolute().parent}
                merged[plural].setdefault(entry.get("name"), content)
        merged["current-context"] = merged["current-context"] or document.get("current-context", "")
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise Invalid(f"cannot read the kubeconfig {path}: {error.strerror}") from error
    try:
        document = msgspec.json.decode(text)
    except msgspec.DecodeError:
        document = _yaml(path, text)
    if not isinstance(document, dict):
        raise Invalid(f"{path} is no kubeconfig")
    return document


def _yaml(path: Path, text: bytes) -> Any:
    try:
        import yaml  # noqa: PLC0415 (people's kubeconfigs alone are YAML: no process in the cluster needs it)
    except ImportError:
        raise Invalid(f"{path} is YAML: pip install pyyaml, or convert it to JSON") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise Invalid(f"{path} is neither JSON nor YAML") from None


def _material(entry: Mapping[str, Any], field: str) -> str:
    """The text of ``<field>-data`` (base64), or of the file named by ``<field>``; empty when neither is set."""
    if entry.get(f"{field}-data"):
        return base64.b64decode(entry[f"{field}-data"]).decode()
    if entry.get(field):
        path: Path = entry["folder"] / entry[field]
        try:
            return path.read_text()
        except OSError as error:
            raise Invalid(f"cannot read {field} {path}: {error.strerror}") from error
    return ""


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> Callable[[], ssl.SSLContext]:
    context = tls(
        authority=_material(cluster, "certificate-authority"),
        certificate=_material(user, "client-certificate"),
        key=_material(user, "client-key"),
        verify=not cluster.get("insecure-skip-tls-verify", False),
    )
    return lambda: context


def _token(user: Mapping[str, Any]) -> TokenSource:
    if user.get("tokenFile"):
        return FileToken(user["folder"] / user["tokenFile"])
    if plugin := user.get("exec"):
        return PluginToken(
            argv=[plugin["command"], *(plugin.get("args") or ())],
            environment={entry["name"]: entry["value"] for entry in plugin.get("env") or ()},
            api_version=plugin["apiVersion"],
        )
    return constant_token(user.get("token", ""))
