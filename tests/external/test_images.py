"""The images of Kubernetes' tests: which are wanted, and that an archive has one image under all of its names."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from external import images
from lab import oci

LISTED = [
    "localhost/kubernetes-e2e/agnhost:2.63.0",
    "localhost/kubernetes-e2e/agnhost:2.55",
    "localhost/kubernetes-e2e/busybox:1.37.0-1",
    "localhost/kubernetes-e2e/nginx:1.27-0",
    "localhost/kubernetes-e2e/nginx:1.15-4",
    "localhost/kubernetes-e2e/glibc-dns-testing:2.0.0",
    "localhost/kubernetes-e2e/volume/nfs:1.6.0",
    "invalid.registry.k8s.io/invalid/alpine:3.1",
]


def test_of_what_is_listed_the_shells_are_wanted_in_all_versions() -> None:
    found = images.wanted([*LISTED, *LISTED])
    assert found == {
        "busybox": ["localhost/kubernetes-e2e/busybox:1.37.0-1"],
        "nginx": ["localhost/kubernetes-e2e/nginx:1.15-4", "localhost/kubernetes-e2e/nginx:1.27-0"],
        "agnhost": ["localhost/kubernetes-e2e/agnhost:2.55", "localhost/kubernetes-e2e/agnhost:2.63.0"],
        "glibc-dns-testing": ["localhost/kubernetes-e2e/glibc-dns-testing:2.0.0"],
    }


def test_one_that_is_no_longer_listed_is_missed() -> None:
    with pytest.raises(ValueError, match="nginx"):
        images.wanted([image for image in LISTED if "nginx" not in image])
    with pytest.raises(ValueError, match="busybox"):  # one that would be pulled is no answer
        images.wanted([image.replace("localhost/kubernetes-e2e/busybox", "docker.io/busybox") for image in LISTED])


def test_every_registry_is_the_lab_s(tmp_path: Path) -> None:
    (path,) = images.registries(tmp_path).values()
    assert set(json.loads(Path(path).read_text()).values()) == {images.REGISTRY}


def test_an_archive_s_image_gets_other_names(tmp_path: Path) -> None:
    oci.layer_of(
        tmp_path / "layer.tar", {}, {"bin/sh": "busybox"}, texts={"etc/group": "root:x:0:\n"}, folders={"tmp": 0o1777}
    )
    oci.write(tmp_path / "old.tar", "localhost/old:1", tmp_path / "layer.tar", command=["/bin/sh"])
    oci.rename(tmp_path / "old.tar", tmp_path / "new.tar", ["localhost/a:1", "localhost/b:2"])
    with tarfile.open(tmp_path / "old.tar") as old, tarfile.open(tmp_path / "new.tar") as new:
        assert old.getnames() == new.getnames()
        entries = json.load(new.extractfile("index.json"))["manifests"]  # type: ignore[arg-type]
        (before,) = json.load(old.extractfile("index.json"))["manifests"]  # type: ignore[arg-type]
    assert [each["annotations"]["io.containerd.image.name"] for each in entries] == ["localhost/a:1", "localhost/b:2"]
    assert {each["digest"] for each in entries} == {before["digest"]}
    with tarfile.open(tmp_path / "layer.tar") as layer:
        assert layer.getmember("tmp").mode == 0o1777
        assert layer.getmember("tmp").isdir()
        text = layer.extractfile("etc/group")
        assert text is not None
        assert text.read() == b"root:x:0:\n"
