"""Writes OCI image archives of one layer, the format that containerd imports and buildah builds from."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MEDIA = "application/vnd.oci.image"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write(target: Path, name: str, layer: Path, *, entrypoint: Sequence[str] = (), command: Sequence[str] = ()) -> None:
    """An archive ``target`` of image ``name`` (``localhost/x:tag``) whose file system is the tar ``layer``."""
    with layer.open("rb") as handle:
        digest = "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()
    config = _encode(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": list(entrypoint),
                "Env": [_PATH],
                **({"Cmd": list(command)} if command else {}),
            },
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        }
    )
    manifest = _encode(
        {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.manifest.v1+json",
            "config": _descriptor(f"{_MEDIA}.config.v1+json", config),
            "layers": [{"mediaType": f"{_MEDIA}.layer.v1.tar", "digest": digest, "size": layer.stat().st_size}],
        }
    )
    entry = {
        **_descriptor(f"{_MEDIA}.manifest.v1+json", manifest),
        "annotations": _named(name),
        "platform": {"os": "linux", "architecture": "amd64"},
    }
    with tarfile.open(target, "w") as archive:
        for path, content in {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": _index([entry]),
            _blob(config): config,
            _blob(manifest): manifest,
        }.items():
            _add(archive, path, content)
        archive.add(layer, f"blobs/sha256/{digest.removeprefix('sha256:')}")


def rename(source: Path, target: Path, names: Sequence[str]) -> None:
    """``target``: the one image of the archive ``source`` under those names, and no longer under its own."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None, f"{source} has something else than files in it"
            if member.name == "index.json":
                (entry,) = json.loads(content.read())["manifests"]
                _add(new, member.name, _index([{**entry, "annotations": _named(name)} for name in names]))
            else:
                new.addfile(member, content)


def layer(source: Path, target: Path) -> None:
    """``target``: the layer of the archive ``source``."""
    with tarfile.open(source) as archive, target.open("wb") as copy:
        content = archive.extractfile(max(archive, key=lambda member: member.size))
        assert content is not None, f"{source} has something else than files in it"
        shutil.copyfileobj(content, copy)


def layer_of(
    target: Path,
    files: Mapping[str, Path],
    links: Mapping[str, str] | None = None,
    *,
    texts: Mapping[str, str] | None = None,
    folders: Mapping[str, int] | None = None,
    onto: bool = False,
) -> None:
    """A tar with those executables by path, symbolic links, ``texts`` and folders with their modes; all root's.
    ``onto``: they are added to the one that is there.
    """
    with tarfile.open(target, "a" if onto else "w") as archive:
        for path, mode in (folders or {}).items():
            info = tarfile.TarInfo(path)
            info.type, info.mode = tarfile.DIRTYPE, mode
            archive.addfile(info)
        for path, text in (texts or {}).items():
            _add(archive, path, text.encode())
        for path, source in files.items():
            info = archive.gettarinfo(source, path)
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = "root"
            info.mode = 0o755
            with source.open("rb") as handle:
                archive.addfile(info, handle)
        for path, goal in (links or {}).items():
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, goal
            archive.addfile(info)


def _add(archive: tarfile.TarFile, path: str, content: bytes) -> None:
    info = tarfile.TarInfo(path)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _named(name: str) -> dict[str, str]:
    return {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}


def _index(entries: list[dict[str, Any]]) -> bytes:
    return _encode({"schemaVersion": 2, "manifests": entries})


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {
        "mediaType": media_type,
        "digest": "sha256:" + hashlib.sha256(content).hexdigest(),
        "size": len(content),
    }


def _blob(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"
