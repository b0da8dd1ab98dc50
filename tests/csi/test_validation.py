"""What a request may contain. Every refusal names the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millpond_core.errors import Invalid
from millpond_csi import validation
from millpond_csi.stubs import csi

MODE = csi.VolumeCapability.AccessMode
HOSTILE = [
    "..",
    "a/b",
    "/",
    "../../etc/shadow",
    "a\0b",
    "a" * 5000,
    "A",
    "a_b",
    "a.b",
    "-a",
    "a-",
    " ",
    "ä",
    "a\n",
    ".",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_volume_id_is_refused(value: str) -> None:
    with pytest.raises(Invalid, match=r"^volume_id ") as refusal:
        validation.volume_id(value)
    assert len(str(refusal.value)) < 400, "5,000 characters must not come back in a message"


@pytest.mark.parametrize("value", ["a", "pvc-0c6f8a3e-7f0e-4d7e-9a53-1d2a5a4f7b10", "a" * 63, "fake-vol-id"])
def test_ordinary_ids_pass(value: str) -> None:
    assert validation.volume_id(value) == value


@pytest.mark.parametrize("value", ["", "n1/..", "N1", "a" * 254, "n\0", "..", "-n"])
def test_a_hostile_node_id_is_refused(value: str) -> None:
    with pytest.raises(Invalid, match=r"^node_id "):
        validation.node_id(value)


@given(st.text(min_size=1))
def test_every_name_becomes_an_id_or_is_refused(name: str) -> None:
    try:
        made = validation.name_to_id(name)
    except Invalid:
        return
    assert validation.volume_id(made) == made
    assert validation.name_to_id(name) == made


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_two_names_never_share_an_id(one: str, other: str) -> None:
    try:
        ids = validation.name_to_id(one), validation.name_to_id(other)
    except Invalid:
        return
    assert (ids[0] == ids[1]) == (one == other)


def test_a_name_that_looks_like_a_derived_id_is_derived_from_too() -> None:
    """Else whoever knows the hash could ask for another's volume by it."""
    derived = validation.name_to_id("Ünïcode")
    assert derived.startswith("vol-")
    assert validation.name_to_id(derived) != derived


@pytest.mark.parametrize("name", ["", "a\x07b", "a\0", "x" * 129, "ä" * 65])
def test_names_that_the_interface_bans(name: str) -> None:
    with pytest.raises(Invalid, match=r"^name "):
        validation.name_to_id(name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pods" / "p").mkdir(parents=True)
    (tmp_path / "escape").symlink_to("/etc")
    (tmp_path / "pods" / "file").touch()
    return tmp_path


@pytest.mark.parametrize(
    "below", ["/pods/../../x", "/pods//p", "/pods/./p", "/pods/p/", "/pods/a\0b", "/" + "a/" * 2600 + "a", "/.."]
)
def test_a_path_that_is_not_normalized_is_refused(root: Path, below: str) -> None:
    with pytest.raises(Invalid, match="target_path"):
        validation.path(f"{root}{below}", "target_path", str(root))


@pytest.mark.parametrize("value", ["", "pods/p", "/etc", "/", "/var/lib/kubeletX/pods"])
def test_a_path_elsewhere_is_refused(root: Path, value: str) -> None:
    with pytest.raises(Invalid, match="target_path"):
        validation.path(value, "target_path", str(root))


def test_a_sibling_with_the_same_beginning_is_elsewhere(root: Path) -> None:
    with pytest.raises(Invalid, match="not below"):
        validation.path(f"{root}-other/p", "target_path", str(root))


def test_a_path_through_a_symlink_is_refused(root: Path) -> None:
    for below in ("/escape", "/escape/passwd"):
        with pytest.raises(Invalid, match="symbolic link"):
            validation.path(f"{root}{below}", "target_path", str(root))


def test_a_path_through_a_file_is_refused(root: Path) -> None:
    with pytest.raises(Invalid, match="no folder"):
        validation.path(f"{root}/pods/file/x", "target_path", str(root))


@pytest.mark.parametrize(
    "below", ["/pods/" + "a" * 256, "/pods/" + "é" * 128, "/pods/a\nb", "/pods/\x1b[2J", "/pods/\x85", "/pods/\u2028"]
)
def test_a_path_that_no_kubelet_makes_is_refused(root: Path, below: str) -> None:
    """A name has at most 255 bytes; a control character in it would end up in somebody's terminal."""
    for value in (f"{root}{below}", f"{root}{below}/mount", f"{root}/not-yet{below}"):
        with pytest.raises(Invalid, match="target_path"):
            validation.path(value, "target_path", str(root))


def test_a_path_that_is_not_there_yet_passes(root: Path) -> None:
    wanted = f"{root}/pods/p/volumes/kubernetes.io~csi/v/mount"
    assert validation.path(wanted, "target_path", str(root)) == wanted


def capability(**fields: Any) -> Any:
    fields.setdefault("access_mode", MODE(mode=MODE.SINGLE_NODE_WRITER))
    return csi.VolumeCapability(**fields)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (csi.VolumeCapability(), "access_type"),
        (capability(mount={"fs_type": "ntfs"}), "ext4 or xfs"),
        (capability(mount={"mount_flags": ["noatime;reboot"]}), "mount option"),
        (capability(mount={"mount_flags": ["x" * 5000]}), "mount option"),
        (capability(mount={"mount_flags": ["noatime,bind"]}), "does something else"),
        (capability(mount={"mount_flags": ["remount"]}), "does something else"),
        (capability(mount={"mount_flags": ["X-mount.mkdir=0777"]}), "does something else"),
        (capability(mount={"mount_flags": ["loop=/dev/loop7"]}), "does something else"),
        (capability(block={}, access_mode=MODE(mode=MODE.MULTI_NODE_MULTI_WRITER)), "one node at a time"),
        (capability(block={}, access_mode=MODE()), "one node at a time"),
    ],
)
def test_a_capability_that_cannot_be_had(value: Any, complaint: str) -> None:
    with pytest.raises(Invalid, match=complaint):
        validation.capability(value)


def test_capabilities() -> None:
    mount = validation.capability(capability(mount={"mount_flags": ["noatime,nodev", "discard"]}))
    assert (mount.block, mount.fs_type, mount.options) == (False, "ext4", ("noatime", "nodev", "discard"))
    exclusive = validation.capability(capability(block={}, access_mode=MODE(mode=MODE.SINGLE_NODE_SINGLE_WRITER)))
    assert exclusive.exclusive
    assert exclusive.block


def test_the_uuid_is_the_one_of_all_contexts() -> None:
    one, other = "0c6f8a3e-7f0e-4d7e-9a53-1d2a5a4f7b10", "1c6f8a3e-7f0e-4d7e-9a53-1d2a5a4f7b10"
    assert validation.uuid({"uuid": one}, {}) == validation.uuid({}, {"uuid": one, "epoch": "3"}) == one
    for contexts in ({}, {}), ({"uuid": one}, {"uuid": other}), ({"uuid": "../x"}, {}), ({"uuid": one + "\n"}, {}):
        with pytest.raises(Invalid, match="uuid"):
            validation.uuid(*contexts)
