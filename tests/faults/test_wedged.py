"""What counts as wedged on a node, from what its kernel says."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults import wedged
from faults.suite import Suite

KTHREAD, PROCESS = wedged.PF_KTHREAD, 0


def task(proc: Path, tid: int, comm: str, state: str, flags: int, *, stack: str = "", switches: int = 7) -> None:
    folder = proc / str(tid) / "task" / str(tid)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(f"{tid} ({comm}) {state} 1 1 1 0 -1 {flags} 0 0\n")
    (folder / "stack").write_text(stack)
    told = f"Name:\t{comm}\nvoluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t3\n"
    (folder / "status").write_text(told)


@pytest.mark.parametrize(
    ("comm", "state", "flags", "stack", "counts"),
    [
        pytest.param("dmsetup", "D", PROCESS, "", True, id="a process"),
        pytest.param("a (b) D", "S", PROCESS, "", False, id="one that sleeps, with an evil name"),
        pytest.param("md_v1_resync", "D", KTHREAD, "", True, id="md's thread"),
        pytest.param("kworker/0:1", "D", KTHREAD, "[<0>] nvme_wait_freeze+0x1/0x2\n", True, id="one that NVMe keeps"),
        pytest.param("kworker/0:1", "D", KTHREAD, "[<0>] msleep+0x1/0x2\n", False, id="one of the kernel's own"),
        pytest.param("nvme-wq", "I", KTHREAD, "", False, id="one that has nothing to do"),
    ],
)
def test_who_waits(tmp_path: Path, comm: str, state: str, flags: int, stack: str, counts: bool) -> None:
    task(tmp_path, 42, comm, state, flags, stack=stack)
    assert list(wedged.waits(tmp_path)) == (["42"] if counts else [])


def test_only_who_waits_all_the_time_is_stuck(tmp_path: Path) -> None:
    for tid in (1, 2, 3):
        task(tmp_path, tid, "python3", "D", PROCESS, stack="[<0>] md_write_start+0x1/0x2\n[<0>] submit_bio+0x1/0x2\n")
    before = wedged.waits(tmp_path)
    task(tmp_path, 2, "python3", "D", PROCESS, switches=8)
    task(tmp_path, 3, "python3", "S", PROCESS)
    assert list(wedged.stuck(before, wedged.waits(tmp_path))) == [
        "python3 (1) waits in md_write_start+0x1/0x2, submit_bio+0x1/0x2"
    ]


LOG = f"""\
[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    2.0] {wedged.MARK}
[    3.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [python3:7]
[    4.0] INFO: task python3:7 blocked for more than 120 seconds.
[    5.0] Oops: 0002 [#1] PREEMPT SMP
"""


@pytest.mark.parametrize(("hung", "times"), [(True, ["4.0]", "5.0]"]), (False, ["5.0]"])])
def test_what_the_kernel_complained_of_since_it_was_asked_last(hung: bool, times: list[str]) -> None:
    assert [line.split()[1] for line in wedged.complaints(LOG, hung=hung)] == times


def test_a_kernel_that_was_booted_since_is_held_to_all_that_it_says() -> None:
    assert len(wedged.complaints(LOG.replace(wedged.MARK, ""), hung=True)) == 3


class Nodes:
    nodes = ("n1", "n2")
    asked: tuple[str, ...] = ()

    def run(self, node: str, *argv: str) -> str:
        self.asked = argv
        return "dmsetup (7) waits in the kernel\n" if node == "n2" else ""


@pytest.mark.parametrize("nobody_waits", [True, False])
def test_each_node_is_asked_and_one_where_writes_may_be_held_may_speak_of_it(nobody_waits: bool) -> None:
    suite = Suite.__new__(Suite)
    suite.field = nodes = Nodes()  # type: ignore[assignment]
    assert suite.wedged(nobody_waits=nobody_waits) == ["wedged: n2: dmsetup (7) waits in the kernel"]
    assert ("--hung" in nodes.asked) is nobody_waits
