"""``kubectl millpond plan expand``: what a larger size would bring; the claim's size itself is changed with kubectl."""

from __future__ import annotations

import time

import click
import msgspec

from millpond_cli import claims, emptying, terminal
from millpond_cli.devices import rate_
from millpond_cli.report import used_by
from millpond_cli.shown import Format, formatted
from millpond_cli.stillness import ABORTED, DONE
from millpond_core.instants import span
from millpond_core.master import enlarging
from millpond_core.master.enlarging import Enlargement
from millpond_core.ports import Kube
from millpond_core.units import format_bytes


@click.command("expand")
@click.argument("volume")
@click.argument("size")
@rate_
@terminal.form
@click.pass_obj
def plan_expand(kubeconfig: str, /, *, volume: str, size: str, rate: int, form: Format) -> None:
    """What a larger SIZE of VOLUME, or of a claim as NAMESPACE/NAME, would bring; nothing is done.

    To have it done, raise spec.resources.requests.storage of the claim. Exit status 3: something is in the way.

    \b
    kubectl millpond plan expand shop/db-0 80Gi
    kubectl millpond plan expand pvc-4f1c 80Gi -o json
    """

    async def show(kube: Kube) -> int:
        name = (await claims.find(kube, volume)).metadata.name
        made = enlarging.plan(await emptying.look(kube), name, size, time.time(), rate=rate)
        pods = await claims.pods(kube, [made.claim])
        made = msgspec.structs.replace(made, pods=tuple(pods.get(made.claim, ())))
        terminal.answer(formatted(made, form) or "\n".join(lines(made)))
        return ABORTED if made.obstacle else DONE

    terminal.run(kubeconfig, show)


def lines(plan: Enlargement) -> list[str]:
    """The whole of it."""
    title = f"{plan.claim} ({plan.volume})" if plan.claim else plan.volume
    effort = f"{format_bytes(plan.bytes)} to zero, about {span(plan.seconds)}" if plan.bytes else "nothing to zero"
    said = [
        f"expand {title} from {format_bytes(plan.from_bytes)} to {format_bytes(plan.to_bytes)}: {effort}"
        f"{used_by(plan.pods)}",
        f"  {plan.copies}/{plan.wanted}  as it is, and at every step: reads and writes go on, but for a moment",
    ]
    said += [
        f"  leg {part.leg} on {part.node}: {format_bytes(part.bytes)} of {', '.join(part.devices)}"
        for part in plan.parts
    ]
    return [*said, f"  in the way: {plan.obstacle}"] if plan.obstacle else said
