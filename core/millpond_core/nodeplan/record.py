"""The record of a leg's state, as the JSON Patch that changes it: everything it relies on is tested."""

from __future__ import annotations

from typing import Any

from millpond_core.errors import Conflict
from millpond_core.model import VirtualVolume
from millpond_core.nodeplan.steps import Record


def patch(volume: VirtualVolume, step: Record) -> list[dict[str, Any]]:
    """Operations on the whole object (``status`` subresource). Conflict when ``volume`` is not what the step is for."""
    mapping = volume.status.mapping
    index = next((i for i, leg in enumerate(mapping.legs) if leg.id == step.leg), None)
    if index is None or mapping.legs[index].state != step.old:
        raise Conflict(f"leg {step.leg} of {volume.metadata.name} is not {step.old} any more")
    leg, base = mapping.legs[index], f"/status/mapping/legs/{index}"
    return [
        {"op": "test", "path": "/status/attachment/epoch", "value": volume.status.attachment.epoch},
        {"op": "test", "path": "/status/mapping/generation", "value": mapping.generation},
        {"op": "test", "path": "/status/mapping/recordSeq", "value": mapping.record_seq},
        {"op": "test", "path": f"{base}/id", "value": leg.id},
        {"op": "test", "path": f"{base}/state", "value": step.old},
        {"op": "replace", "path": f"{base}/state", "value": step.new},
        {"op": "replace", "path": "/status/mapping/recordSeq", "value": mapping.record_seq + 1},
    ]
