"""Our csi.proto and pluginregistration.proto against the published ones, field by field."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parents[2]
OURS = ROOT / "csidriver" / "millpond_csi" / "proto"
SPEC = "github.com/container-storage-interface/spec@v1.12.0"
KUBELET = "k8s.io/kubelet@v0.36.3"
SERVED = ("Identity", "Controller", "Node")


def compile_proto(proto: Path) -> Any:
    """The FileDescriptorProto of ``proto``."""
    with tempfile.NamedTemporaryFile() as out:
        argv = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto.parent}", f"-I{files('grpc_tools') / '_proto'}"]
        subprocess.run([*argv, f"--descriptor_set_out={out.name}", proto.name], check=True, timeout=60)
        described = descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes())
    return described.file[0]


def published(module: str, path: str) -> Any:
    """The descriptor of a file of a Go module."""
    from lab import golang  # noqa: PLC0415 (only where it is needed)

    with tempfile.TemporaryDirectory() as folder:
        answer = golang.ensure().run("mod", "download", "-json", module, seconds=300, cwd=Path(folder))
    return compile_proto(Path(json.loads(answer)["Dir"], path))


@pytest.fixture(scope="module")
def csi_pair() -> tuple[Any, Any]:
    return compile_proto(OURS / "csi.proto"), published(SPEC, "csi.proto")


@pytest.fixture(scope="module")
def registration_pair() -> tuple[Any, Any]:
    return (
        compile_proto(OURS / "pluginregistration.proto"),
        published(KUBELET, "pkg/apis/pluginregistration/v1/api.proto"),
    )


def by_name(elements: Iterable[Any]) -> dict[str, Any]:
    return {element.name: element for element in elements}


def facts(file: Any) -> dict[str, str]:
    """Each fact of an interface by its full name: what a message's fields, an enum's values, a method are."""
    found = dict(_message_facts("", file.message_type))
    found |= dict(_enum_facts("", file.enum_type))
    for service in file.service:
        found |= {f"{service.name}.{method.name}": str(method) for method in service.method}
        found[service.name] = str(service.options)
    found |= {f"({extension.name} of {extension.extendee})": str(extension) for extension in file.extension}
    return found | {"package": file.package, "syntax": file.syntax, "go_package": file.options.go_package}


def _message_facts(prefix: str, messages: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for message in messages:
        name = f"{prefix}{message.name}"
        yield name, f"{message.options} {[oneof.name for oneof in message.oneof_decl]} {list(message.reserved_range)}"
        yield from ((f"{name}.{field.name}", str(field)) for field in message.field)
        yield from _enum_facts(f"{name}.", message.enum_type)
        yield from _message_facts(f"{name}.", message.nested_type)


def _enum_facts(prefix: str, enums: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for enum in enums:
        yield f"{prefix}{enum.name}", str(enum.options)
        yield from ((f"{prefix}{enum.name}.{value.name}", str(value)) for value in enum.value)


@pytest.mark.timeout(600)
def test_every_fact_of_ours_is_the_published_one(csi_pair: tuple[Any, Any]) -> None:
    ours, theirs = facts(csi_pair[0]), facts(csi_pair[1])
    assert len(ours) > 300
    assert {name: fact for name, fact in ours.items() if theirs.get(name) != fact} == {}


def test_what_we_serve_lacks_nothing(csi_pair: tuple[Any, Any]) -> None:
    """Each message of ours is whole, and each method of a served service is there."""
    ours, theirs = facts(csi_pair[0]), facts(csi_pair[1])
    kept = {message.name for message in csi_pair[0].message_type} | set(SERVED)
    missing = [name for name in theirs if name.split(".")[0] in kept and name not in ours]
    assert missing == []
    assert set(by_name(csi_pair[0].service)) == set(SERVED)


@pytest.mark.timeout(600)
def test_registration_is_the_kubelets(registration_pair: tuple[Any, Any]) -> None:
    ours, theirs = map(facts, registration_pair)
    assert ours == theirs


def test_a_changed_number_is_noticed(csi_pair: tuple[Any, Any]) -> None:
    changed = descriptor_pb2.FileDescriptorProto()
    changed.CopyFrom(csi_pair[0])
    changed.message_type[0].name, changed.message_type[1].field[0].number = "Renamed", 9
    ours, theirs = facts(changed), facts(csi_pair[1])
    assert {name for name, fact in ours.items() if theirs.get(name) != fact} == {
        "Renamed",
        f"{changed.message_type[1].name}.{changed.message_type[1].field[0].name}",
    }
