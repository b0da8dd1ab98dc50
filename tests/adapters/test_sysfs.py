"""The kernel's files, with ordinary ones in their place."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from millpond_adapters import sysfs
from millpond_core.errors import Busy, CommandFailed, NotFound

FULL = Path("/dev/full")  # answers every write with an error


async def test_written_in_order_and_read_back(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "with space"
    for path in (one, two):
        path.write_text("before")
    await sysfs.write_all([(one, "1"), (two, "-blocked"), (one, "%s 3-4\\n")])
    assert (sysfs.read(one), sysfs.read(two)) == ("%s 3-4\\n", "-blocked")
    await sysfs.write_all([])


async def test_the_first_failure_ends_it_and_says_why(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        path.write_text("before")
    with pytest.raises(CommandFailed, match="No space left on device") as caught:
        await sysfs.write_all([(one, "1"), (FULL, "x"), (two, "2")])
    assert "'x' to /dev/full" in str(caught.value)
    assert (sysfs.read(one), sysfs.read(two)) == ("1", "before")


async def test_a_file_that_is_not_there_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No such file"):
        await sysfs.write(tmp_path / "gone", "x")
    assert sysfs.entries(tmp_path) == []
    with pytest.raises(NotFound):
        sysfs.read(tmp_path / "gone")
    assert sysfs.peek(tmp_path / "gone", "none") == "none"


def test_an_attribute_is_read_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel makes it anew for each read: it had 10 characters at the first one and has 14 now."""
    attribute = tmp_path / "sync_completed"
    attribute.touch()
    reads = iter([b"0 / 63488\n", b"488\n", b""])
    monkeypatch.setattr("millpond_adapters.sysfs.os.read", lambda *_: next(reads))
    assert sysfs.read(attribute) == "0 / 63488"


@pytest.mark.parametrize(
    ("message", "category"),
    [
        ("dd: error writing '/sys/x': Device or resource busy\n", Busy),
        ("dd: failed to open '/sys/x': No such file or directory\n", NotFound),
        ("rmdir: failed to remove '/x': No such device\n", NotFound),
        ("dd: error writing '/sys/x': Invalid argument\n", CommandFailed),
    ],
)
def test_errors_by_what_the_kernel_answered(message: str, category: type[Exception]) -> None:
    told = sysfs.explain(CommandFailed(("dd",), 1, message), "writing 'x' to /sys/x")
    assert type(told) is category
    assert "writing 'x' to /sys/x failed" in str(told)
    assert message.strip().rpartition(": ")[2] in str(told)


def test_only_block_devices_have_a_number(tmp_path: Path) -> None:
    assert sysfs.number_of(Path("/dev/null")) == ""
    assert sysfs.number_of(tmp_path / "gone") == ""


@pytest.mark.parametrize(("error", "told"), [(errno.EMFILE, True), (errno.ENOENT, False)], ids=["no files", "gone"])
async def test_what_cannot_be_watched_is_told_unless_it_is_gone(
    error: int, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("millpond_adapters.sysfs.os.open", refuse)
    sysfs.watch([tmp_path / "array_state"], lambda: None)()
    assert ("array_state is not watched, only polled" in caplog.text) is told
