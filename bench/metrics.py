"""Reads metrics in the text format of Prometheus; what an API server says of the requests for our kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_GROUP = "millpond.io"
_LONG = ("WATCH", "CONNECT")
"""Counted when they end, which may be at any time."""
_BODIES = ("apiserver_request_body_size_bytes_sum", "apiserver_response_sizes_sum", "apiserver_watch_events_sizes_sum")


class Traffic(NamedTuple):
    """Requests for our kinds and Events about them, so far; heartbeats (Leases) are no part of it."""

    requests: float
    kib: float
    """Bodies of requests and answers, and what watches were sent, before TLS and compression."""

    def since(self, before: Traffic) -> Traffic:
        return Traffic(self.requests - before.requests, self.kib - before.kib)


def traffic(text: str) -> Traffic:
    """From an API server's own metrics."""
    requests = sum(
        value
        for labels, value in series(text, "apiserver_request_total")
        if _ours(labels) and labels.get("verb") not in _LONG
    )
    size = sum(
        value
        for name in _BODIES
        for labels, value in series(text, name)
        if _ours(labels) and labels.get("verb") not in _LONG
    )
    return Traffic(requests, size / 1024)


def requests(text: str) -> dict[str, float]:
    """How often each verb was asked of each resource so far; not watches, nor heartbeats and elections (Leases)."""
    found: dict[str, float] = {}
    for labels, value in series(text, "apiserver_request_total"):
        resource, verb = labels.get("resource", ""), labels.get("verb", "")
        if resource not in ("", "leases") and verb not in _LONG:
            name = f"{'/'.join(filter(None, (resource, labels.get('subresource'))))} {verb}"
            found[name] = found.get(name, 0.0) + value
    return found


def total(text: str, name: str, **wanted: str) -> float:
    """The sum of a metric's values whose labels are as ``wanted``; 0 without any."""
    return sum(value for labels, value in series(text, name) if wanted.items() <= labels.items())


def series(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of each series of one metric."""
    for line in text.splitlines():
        if not line.startswith(name) or line[len(name) : len(name) + 1] not in ("{", " "):
            continue
        labels, _, value = line[len(name) :].rpartition(" ")
        yield dict(_LABEL.findall(labels)), float(value)


def _ours(labels: dict[str, str]) -> bool:
    return labels.get("group") == _GROUP or labels.get("resource") == "events"
