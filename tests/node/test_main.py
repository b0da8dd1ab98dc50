"""What the state manager's process asks of the kernel for itself."""

from __future__ import annotations

import resource

import pytest

from millpond_node import main


@pytest.mark.parametrize(
    ("limits", "then"),
    [
        ((1024, 524288), (main.FILES, 524288)),
        ((1024, 4096), (4096, 4096)),
        ((1024, resource.RLIM_INFINITY), (main.FILES, resource.RLIM_INFINITY)),
        ((1 << 20, 1 << 20), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
    ids=["systemd's", "a small hard limit", "no hard limit", "more than enough", "no limit"],
)
def test_files_may_be_as_many_as_are_needed_or_can_be_had(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], then: tuple[int, int] | None
) -> None:
    made: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: made.append(both))
    main.allow_files()
    assert made == ([then] if then else [])
