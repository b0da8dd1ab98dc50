"""The API server, behind the ``Kube`` port: ``async with ApiKube(load(), component="millpond-node") as kube``.

On aiohttp and msgspec, without a Kubernetes library: docs/decisions/0003-kubernetes-client.md has the measurement.
"""

from millpond_adapters.kube.access import Access
from millpond_adapters.kube.client import ApiKube
from millpond_adapters.kube.config import load

__all__ = ["Access", "ApiKube", "load"]
