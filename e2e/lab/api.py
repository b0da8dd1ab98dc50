"""The few requests that the lab itself makes to its API server."""

from __future__ import annotations

import base64
import http
import http.client
import json
import os
import ssl
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.errors import Ended, LabError


class Api:
    """A connection per request, as the user of a kubeconfig that :mod:`lab.pki` wrote."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server = urllib.parse.urlsplit(cluster["server"])
        self._tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with os.fdopen(os.memfd_create("identity"), "wb") as pem:  # ssl takes a client's key from a path only
            pem.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pem.flush()
            self._tls.load_cert_chain(f"/proc/self/fd/{pem.fileno()}")

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: str = "application/json",
        seconds: float = 10,
        missing: Any = None,
    ) -> Any:
        """Send one request and return the decoded answer; LabError on failure, but ``missing`` for a 404 if given."""
        link = http.client.HTTPSConnection(
            self.server.hostname or "", self.server.port, context=self._tls, timeout=seconds
        )
        try:
            link.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": content})
            answer = link.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"the API server does not answer {method} {path}: {error}") from error
        finally:
            link.close()
        if answer.status == http.HTTPStatus.NOT_FOUND and missing is not None:
            return missing
        if answer.status >= 300:
            raise LabError(f"{method} {path}: {answer.status} {data.decode(errors='replace')[:500]}")
        return json.loads(data) if data.startswith((b"{", b"[")) else data.decode()

    def merge(self, path: str, body: Any) -> Any:
        """A JSON merge patch."""
        return self.request("PATCH", path, body, content="application/merge-patch+json")


def wait_for(condition: Callable[[], bool], what: str, *, seconds: float, every: float = 0.2) -> None:
    """Wait until ``condition()`` is true (LabError counts as "not yet", Ended does not); LabError after ``seconds``."""
    deadline = time.monotonic() + seconds
    last = ""
    while True:
        try:
            if condition():
                return
        except Ended:
            raise
        except LabError as error:
            last = f" (last answer: {error})"
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not after {seconds:.0f} s{last}")
        time.sleep(every)
