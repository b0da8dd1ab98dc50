"""Pure: what a person says on the command line → the Quiescence they ask for."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Sequence

from millpond_core.errors import Invalid
from millpond_core.model import ObjectMeta, Quiescence
from millpond_core.model.quiescence import ClaimScope, QuiescenceSpec, Reason, Scope


def quiescence(
    *,
    name: str = "",
    volumes: Sequence[str] = (),
    claims: Sequence[str] = (),
    namespace: str = "",
    selector: str = "",
    devices: Sequence[str] = (),
    nodes: Sequence[str] = (),
    cluster: bool = False,
    hold: bool = False,
    seconds: int = 30,
    reason: Reason = "Manual",
    message: str = "",
) -> Quiescence:
    """Raises Invalid when it says nothing, or a claim's or selector's namespace is not said."""
    scope = Scope(
        volumes=list(volumes),
        claims=_claims(claims, namespace, labels(selector)),
        devices=list(devices),
        nodes=list(nodes),
        cluster=cluster,
    )
    if scope == Scope():
        raise Invalid("say what is to go still: --claim, --namespace, --volume, --device, --node or --cluster")
    spec = QuiescenceSpec(reason=reason, scope=scope, hold_io=hold, deadline_seconds=seconds, message=message)
    return Quiescence(metadata=ObjectMeta(name=name or f"{reason.lower()}-{secrets.token_hex(3)}"), spec=spec)


def labels(selector: str) -> dict[str, str]:
    """``key=value,…`` as kubectl's ``-l`` has it; Invalid for anything but equality."""
    found = {}
    for term in selector.split(",") if selector else ():
        key, equals, value = term.strip().partition("=")
        value = value.removeprefix("=")  # kubectl takes == too
        if not equals or key.endswith("!") or not key:
            raise Invalid(f"{term.strip()!r} is no label: say key=value, more than one with commas")
        found[key] = value
    return found


def _claims(claims: Sequence[str], namespace: str, match_labels: dict[str, str]) -> list[ClaimScope]:
    if match_labels and not namespace:
        raise Invalid("--selector needs --namespace: claims are looked for in one namespace")
    by_namespace: dict[str, list[str]] = defaultdict(list)
    for claim in claims:
        there, slash, name = claim.rpartition("/")
        if not (there or namespace) or not name:
            raise Invalid(f"claim {claim!r}: say namespace/name, or --namespace")
        by_namespace[there if slash else namespace].append(name)
    found = [ClaimScope(namespace=one, names=names) for one, names in sorted(by_namespace.items())]
    if match_labels or (namespace and not claims):
        found.append(ClaimScope(namespace=namespace, match_labels=match_labels))
    return found
