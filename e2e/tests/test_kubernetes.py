"""A selection of Kubernetes' own tests of storage drivers; `make e2e-kubernetes` runs all that are for ours."""

from __future__ import annotations

import pytest

from demo.session import Session, build_folder
from external import definition, outcome, run
from external.parts import GRACE_SECONDS, SELECTION, least

SECONDS = sum(part.minutes * 60 + GRACE_SECONDS for part in SELECTION) + run.ROLLOUT_SECONDS + run.GONE_SECONDS


@pytest.mark.timeout(SECONDS)
def test_what_kubernetes_asks_of_every_driver(session: Session, request: pytest.FixtureRequest) -> None:
    folder = build_folder(request.node.name)
    folder.mkdir(parents=True, exist_ok=True)
    session.cluster.apply(*definition.objects())
    found = run.all_parts(session, SELECTION, folder)
    assert outcome.problems(found, least(SELECTION)) == []
