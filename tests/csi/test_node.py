"""The Node service: what is formatted and what never, idempotence, and what works without an API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from millpond_core.errors import Busy, CommandFailed, DeadlineExceeded, Invalid, NotFound
from millpond_core.observed import Contents
from millpond_csi.errors import NotReady, OutOfRange, Refused
from millpond_csi.testing import Mode, block_capability, mount_capability

HOSTILE = ["..", "a/b", "a\0", "a" * 5000]


@pytest.fixture
async def volume(driver: Any) -> Any:
    """A volume that is attached; its publish context is ``volume.context``."""
    driver.made = await driver.create()
    driver.context = await driver.attach(driver.made)
    return driver.made


def device(driver: Any) -> Any:
    return next(iter(driver.mounts.devices.values()))


def formats(driver: Any) -> list[tuple[str, ...]]:
    return [call for call in driver.mounts.calls if call[0] == "format"]


# --- staging ---


async def test_staging_again_is_done(driver: Any, volume: Any) -> None:
    for _ in range(3):
        await driver.stage(volume, driver.context)
    assert len(driver.mounts.mounts) == 1
    assert len(formats(driver)) == 1


async def test_a_filesystem_is_checked_and_kept(driver: Any, volume: Any) -> None:
    device(driver).contents = Contents(kind="Filesystem", fs_type="ext4", detail="ext4")
    await driver.stage(volume, driver.context)
    assert formats(driver) == []
    assert ("check", "/dev/dm-0", "ext4") in driver.mounts.calls


@pytest.mark.parametrize(
    "contents",
    [
        Contents(kind="Filesystem", fs_type="xfs", detail="xfs"),
        Contents(kind="Filesystem", fs_type="btrfs", detail="btrfs"),
        Contents(kind="Other", fs_type="LVM2_member", detail="LVM2_member"),
        Contents(kind="Other", fs_type="gpt", detail="a gpt partition table"),
        Contents(kind="Other", detail="data near byte 0 that no known signature explains"),
        Contents(kind="Other"),
    ],
    ids=lambda contents: contents.detail or "ambivalent",
)
async def test_a_device_with_anything_on_it_is_never_formatted(driver: Any, volume: Any, contents: Contents) -> None:
    device(driver).contents = contents
    with pytest.raises(Refused, match="cannot be mounted: it holds"):
        await driver.stage(volume, driver.context)
    assert formats(driver) == []
    assert device(driver).contents == contents


async def test_a_device_that_cannot_be_read_is_never_formatted(driver: Any, volume: Any) -> None:
    driver.mounts.failures["contents"] = CommandFailed(("blkid",), 4, "Input/output error")
    with pytest.raises(CommandFailed):
        await driver.stage(volume, driver.context)
    assert formats(driver) == []


async def test_an_empty_device_that_is_to_be_read_only_is_refused(driver: Any, volume: Any) -> None:
    with pytest.raises(Refused, match="read-only"):
        await driver.stage(volume, driver.context, mount_capability(mode=Mode.SINGLE_NODE_READER_ONLY))


async def test_a_format_that_was_cut_off_is_made_again_within_the_same_attachment(driver: Any, volume: Any) -> None:
    driver.mounts.failures["format"] = CommandFailed(("mkfs.ext4",), -9, "killed")
    with pytest.raises(CommandFailed):
        await driver.stage(volume, driver.context)
    device(driver).contents = Contents(kind="Other", detail="data near byte 0 that no known signature explains")
    await driver.stage(volume, driver.context)
    assert len(formats(driver)) == 2
    assert device(driver).contents.fs_type == "ext4"


async def test_a_format_that_was_cut_off_under_an_older_epoch_counts_for_nothing(driver: Any, volume: Any) -> None:
    """The volume may have been written on another node since."""
    driver.mounts.failures["format"] = CommandFailed(("mkfs.ext4",), -9, "killed")
    with pytest.raises(CommandFailed):
        await driver.stage(volume, driver.context)
    await driver.call("controller_unpublish_volume", volume_id="pvc-1", node_id="n1")
    context = await driver.attach(volume)
    device(driver).contents = Contents(kind="Other", detail="data near byte 0 that no known signature explains")
    before = len(formats(driver))
    with pytest.raises(Refused):
        await driver.stage(volume, context)
    assert len(formats(driver)) == before


async def test_not_even_a_format_that_was_cut_off_writes_over_a_signature(driver: Any, volume: Any) -> None:
    driver.mounts.failures["format"] = CommandFailed(("mkfs.ext4",), -9, "killed")
    with pytest.raises(CommandFailed):
        await driver.stage(volume, driver.context)
    device(driver).contents = Contents(kind="Filesystem", fs_type="xfs", detail="xfs")
    before = len(formats(driver))
    with pytest.raises(Refused):
        await driver.stage(volume, driver.context)
    assert len(formats(driver)) == before


async def test_staging_waits_for_the_front_and_says_so_when_it_does_not_come(driver: Any, volume: Any) -> None:
    hidden = dict(driver.mounts.devices)
    driver.mounts.devices.clear()
    waiting = asyncio.ensure_future(driver.stage(volume, driver.context))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    driver.mounts.devices.update(hidden)
    await asyncio.wait_for(waiting, 2)
    driver.mounts.devices.clear()
    driver.mounts.mounts.clear()
    with pytest.raises(NotReady, match="is not assembled on node n1"):
        await driver.call(
            "node_stage_volume",
            0.3,
            volume_id="pvc-1",
            volume_context=volume.volume_context,
            staging_target_path=driver.staging(),
            volume_capability=mount_capability(),
        )


async def test_a_device_of_the_same_name_with_another_uuid_is_not_ours(driver: Any, volume: Any) -> None:
    device(driver).uuid = "LVM-something"
    with pytest.raises(NotReady):
        await driver.call(
            "node_stage_volume",
            0.3,
            volume_id="pvc-1",
            volume_context=volume.volume_context,
            staging_target_path=driver.staging(),
            volume_capability=mount_capability(),
        )


async def test_a_staging_path_that_shows_something_else_is_refused(driver: Any, volume: Any) -> None:
    await driver.stage(volume, driver.context)
    other = await driver.create("pvc-2")
    with pytest.raises(Refused, match="another device"):
        await driver.stage(other, await driver.attach(other))


async def test_mount_options_are_passed_on(driver: Any, volume: Any) -> None:
    device(driver).contents = Contents(kind="Filesystem", fs_type="xfs", detail="xfs")
    capability = mount_capability("xfs", Mode.SINGLE_NODE_READER_ONLY, ("noatime",))
    await driver.stage(volume, driver.context, capability)
    assert ("mount", "/dev/dm-0", driver.staging(), "xfs", "noatime", "ro") in driver.mounts.calls


@pytest.mark.parametrize(
    "capability",
    [mount_capability(flags=("noatime,ro",)), mount_capability(mode=Mode.SINGLE_NODE_READER_ONLY)],
    ids=["by-a-mount-option", "by-the-access-mode"],
)
async def test_what_is_mounted_read_only_is_staged_and_shown_again_as_it_is(
    driver: Any, volume: Any, capability: Any
) -> None:
    device(driver).contents = Contents(kind="Filesystem", fs_type="ext4", detail="ext4")
    for _ in range(2):
        await driver.stage(volume, driver.context, capability)
        await driver.publish(volume, driver.context, capability)
    assert [mount.options for mount in driver.mounts.mounts] == [frozenset({"ro"})] * 2
    assert not [call for call in driver.mounts.calls if call[0] == "unmount"], "a pod uses it"


async def test_raw_block_is_not_looked_into(driver: Any, volume: Any) -> None:
    device(driver).contents = Contents(kind="Other", detail="anything")
    await driver.stage(volume, driver.context, block_capability())
    await driver.publish(volume, driver.context, block_capability())
    await driver.publish(volume, driver.context, block_capability())
    assert [(m.target, m.root) for m in driver.mounts.mounts] == [(driver.target(), "/dm-0")]
    stats = await driver.call("node_get_volume_stats", volume_id="pvc-1", volume_path=driver.target())
    assert [(usage.unit, usage.total) for usage in stats.usage] == [(1, 64 << 20)]
    await driver.call("node_unpublish_volume", volume_id="pvc-1", target_path=driver.target())
    assert driver.target() not in driver.mounts.files
    await driver.call("node_unstage_volume", volume_id="pvc-1", staging_target_path=driver.staging())


# --- publishing ---


async def test_publishing_needs_staging(driver: Any, volume: Any) -> None:
    with pytest.raises(Refused, match="not staged"):
        await driver.publish(volume, driver.context)


async def test_publishing_again_is_done_and_readonly_is_kept(driver: Any, volume: Any) -> None:
    await driver.stage(volume, driver.context)
    for _ in range(3):
        await driver.publish(volume, driver.context, readonly=True)
    shown = [mount for mount in driver.mounts.mounts if mount.target == driver.target()]
    assert [mount.options for mount in shown] == [frozenset({"ro"})]


async def test_a_bind_that_was_left_writable_is_made_read_only(driver: Any, volume: Any) -> None:
    await driver.stage(volume, driver.context)
    await driver.publish(volume, driver.context)
    await driver.publish(volume, driver.context, readonly=True)
    shown = [mount for mount in driver.mounts.mounts if mount.target == driver.target()]
    assert [mount.options for mount in shown] == [frozenset({"ro"})]


@pytest.mark.parametrize("block", [False, True])
async def test_one_pods_alone_means_no_second_pod(driver: Any, volume: Any, block: bool) -> None:
    make = block_capability if block else mount_capability
    capability = make(mode=Mode.SINGLE_NODE_SINGLE_WRITER)
    await driver.stage(volume, driver.context, capability)
    await driver.publish(volume, driver.context, capability)
    await driver.publish(volume, driver.context, capability)
    with pytest.raises(Refused, match="one pod's alone"):
        await driver.publish(volume, driver.context, capability, target_path=driver.target("p2"))
    shared = make(mode=Mode.SINGLE_NODE_MULTI_WRITER)
    await driver.publish(volume, driver.context, shared, target_path=driver.target("p2"))


# --- growing ---


async def expand(driver: Any, required: int = 128 << 20, **fields: Any) -> Any:
    fields = {"volume_path": driver.target(), "staging_target_path": driver.staging(), **fields}
    return await driver.call(
        "node_expand_volume", volume_id="pvc-1", capacity_range={"required_bytes": required}, **fields
    )


def grows(driver: Any) -> list[tuple[str, ...]]:
    return [call for call in driver.mounts.calls if call[0] == "grow"]


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
async def test_a_filesystem_fills_its_device_where_it_is_mounted(driver: Any, volume: Any, fs_type: str) -> None:
    device(driver).contents = Contents(kind="Filesystem", fs_type=fs_type, detail=fs_type)
    capability = mount_capability(fs_type)
    await driver.stage(volume, driver.context, capability)
    assert grows(driver) == [], "a stage leaves it as it is"
    await driver.publish(volume, driver.context, capability, readonly=True)
    device(driver).size = 128 << 20
    for _ in range(2):
        assert (await expand(driver)).capacity_bytes == 128 << 20
    assert grows(driver) == [("grow", "253:0", driver.staging(), fs_type)] * 2, "the pod's own mount is read-only"
    assert device(driver).used == 128 << 20


@pytest.mark.parametrize("path", ["staging", "target"])
async def test_it_is_found_at_either_path(driver: Any, volume: Any, path: str) -> None:
    """The kubelet names the pod's path, which may have gone, or the staging path alone."""
    await driver.stage(volume, driver.context)
    device(driver).size = 128 << 20
    await expand(driver, volume_path=getattr(driver, path)())
    assert device(driver).used == 128 << 20


async def test_a_device_that_is_not_enlarged_yet_is_waited_for(driver: Any, volume: Any) -> None:
    await driver.stage(volume, driver.context)
    with pytest.raises(NotReady, match=f"has {64 << 20} bytes, {128 << 20} are to be: the state manager of node n1"):
        await expand(driver)
    assert grows(driver) == []


async def test_raw_block_has_only_to_be_that_large(driver: Any, volume: Any) -> None:
    await driver.stage(volume, driver.context, block_capability())
    await driver.publish(volume, driver.context, block_capability())
    with pytest.raises(NotReady):
        await expand(driver, volume_capability=block_capability())
    device(driver).size = 128 << 20
    assert (await expand(driver, volume_capability=block_capability())).capacity_bytes == 128 << 20
    assert grows(driver) == []


async def test_a_filesystem_that_is_only_read_does_not_grow(driver: Any, volume: Any) -> None:
    device(driver).contents = Contents(kind="Filesystem", fs_type="ext4", detail="ext4")
    await driver.stage(volume, driver.context, mount_capability(mode=Mode.SINGLE_NODE_READER_ONLY))
    with pytest.raises(Refused, match="read-only"):
        await expand(driver, 64 << 20)
    assert grows(driver) == []


async def test_a_device_beyond_the_limit_is_said(driver: Any, volume: Any) -> None:
    await driver.stage(volume, driver.context)
    where = {"volume_path": driver.staging(), "volume_id": "pvc-1"}
    with pytest.raises(OutOfRange, match="at most"):
        await driver.call("node_expand_volume", **where, capacity_range={"limit_bytes": 32 << 20})
    with pytest.raises(Invalid, match="negative"):
        await driver.call("node_expand_volume", **where, capacity_range={"required_bytes": -1})
    await driver.call("node_expand_volume", **where)


async def test_what_is_not_mounted_is_not_grown(driver: Any, volume: Any) -> None:
    for path in ("some/path", "/etc", f"{driver.root}/pods/none"):
        with pytest.raises(NotFound, match="not published"):
            await expand(driver, volume_path=path)
    for fields, field in (
        ({"volume_path": ""}, "volume_path"),
        ({"volume_path": f"{driver.root}/../x"}, "volume_path"),
        ({"staging_target_path": "/etc"}, "staging_target_path"),
    ):
        with pytest.raises(Invalid, match=field):
            await expand(driver, **fields)
    assert grows(driver) == []


async def test_a_tool_that_fails_is_said_and_called_again(driver: Any, volume: Any) -> None:
    await driver.stage(volume, driver.context)
    device(driver).size = 128 << 20
    driver.mounts.failures["grow"] = DeadlineExceeded("resize2fs did not end within 300 s")
    with pytest.raises(DeadlineExceeded):
        await expand(driver)
    await expand(driver)


async def test_growing_needs_no_api_server(driver: Any, volume: Any) -> None:
    await driver.stage(volume, driver.context)
    with driver.kube.outage():
        await expand(driver, 64 << 20)


# --- taking down ---


async def test_unpublish_and_unstage_are_done_when_there_is_nothing(driver: Any) -> None:
    await driver.call("node_unpublish_volume", volume_id="pvc-1", target_path=driver.target())
    await driver.call("node_unstage_volume", volume_id="pvc-1", staging_target_path=driver.staging())


async def test_mounts_over_each_other_are_all_taken_away(driver: Any, volume: Any) -> None:
    await driver.stage(volume, driver.context)
    for _ in range(3):
        await driver.mounts.bind(driver.staging(), driver.target(), readonly=False)
    await driver.call("node_unpublish_volume", volume_id="pvc-1", target_path=driver.target())
    assert [mount.target for mount in driver.mounts.mounts] == [driver.staging()]


async def test_a_mount_in_use_stays(driver: Any, volume: Any) -> None:
    await driver.stage(volume, driver.context)
    driver.mounts.busy.add(driver.staging())
    with pytest.raises(Busy):
        await driver.call("node_unstage_volume", volume_id="pvc-1", staging_target_path=driver.staging())
    assert len(driver.mounts.mounts) == 1


async def test_taking_down_and_stats_need_no_api_server_and_no_front(driver: Any, volume: Any) -> None:
    await driver.stage(volume, driver.context)
    await driver.publish(volume, driver.context)
    driver.mounts.devices.clear()
    with driver.kube.outage():
        await driver.call("node_get_volume_stats", volume_id="pvc-1", volume_path=driver.target())
        await driver.call("node_unpublish_volume", volume_id="pvc-1", target_path=driver.target())
        await driver.call("node_unstage_volume", volume_id="pvc-1", staging_target_path=driver.staging())
    assert driver.mounts.mounts == []


# --- bad input ---


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize(
    "method",
    [
        "node_stage_volume",
        "node_unstage_volume",
        "node_publish_volume",
        "node_unpublish_volume",
        "node_get_volume_stats",
        "node_expand_volume",
    ],
)
async def test_a_hostile_id_touches_nothing(driver: Any, method: str, value: str) -> None:
    with pytest.raises(Invalid, match="volume_id"):
        await driver.call(method, volume_id=value)
    assert driver.mounts.calls == []


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/", "pods/x", "{root}/../x", "{root}/a\0b", "{root}/" + "x" * 5000, "{root}"]
)
@pytest.mark.parametrize(
    ("method", "field"),
    [
        ("node_stage_volume", "staging_target_path"),
        ("node_unstage_volume", "staging_target_path"),
        ("node_publish_volume", "target_path"),
        ("node_unpublish_volume", "target_path"),
    ],
)
async def test_a_path_outside_of_the_kubelets_folder_is_not_touched(
    driver: Any, method: str, field: str, path: str
) -> None:
    fields = {"volume_id": "pvc-1", field: path.replace("{root}", driver.root)}
    if method in ("node_stage_volume", "node_publish_volume"):
        fields["volume_capability"] = mount_capability()
    with pytest.raises(Invalid, match=field):
        await driver.call(method, **fields)
    assert driver.mounts.calls == []


async def test_stats_of_what_is_not_published(driver: Any, volume: Any) -> None:
    for path in ("some/path", "/etc", f"{driver.root}/pods/none"):
        with pytest.raises(NotFound):
            await driver.call("node_get_volume_stats", volume_id="pvc-1", volume_path=path)
    with pytest.raises(Invalid, match="volume_path"):
        await driver.call("node_get_volume_stats", volume_id="pvc-1", volume_path=f"{driver.root}/../x")


async def test_info(driver: Any) -> None:
    info = await driver.call("node_get_info")
    assert (info.node_id, dict(info.accessible_topology.segments)) == ("n1", {"topology.millpond.io/node": "n1"})
