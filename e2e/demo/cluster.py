"""A cluster, known by its kubeconfig alone: kubectl, and watches that never go silent for long."""

from __future__ import annotations

import base64
import http
import http.client
import json
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.errors import DemoError

Object = dict[str, Any]

GROUP = "/apis/millpond.io/v1alpha1"
KINDS = ("storagenodes", "storagedevices", "virtualvolumes", "quiescences")
WATCH_SECONDS = 60


@dataclass(frozen=True)
class Cluster:
    """How to reach it."""

    kubeconfig: Path
    kubectl_program: Path = Path("kubectl")

    def kubectl(self, *arguments: str, stdin: str | None = None, seconds: float = 60, check: bool = True) -> str:
        """Standard output of one kubectl; DemoError with its own words when it fails or does not end."""
        argv = [str(self.kubectl_program), "--kubeconfig", str(self.kubeconfig), *arguments]
        said = " ".join(["kubectl", *arguments])
        try:
            done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise DemoError(f"no answer after {seconds:.0f} s: {said}") from None
        except FileNotFoundError:
            raise DemoError(f"there is no {self.kubectl_program}", next_step="install kubectl") from None
        if check and done.returncode != 0:
            raise DemoError(f"{said}\n  {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def millpond(self, *arguments: str, seconds: float = 400) -> subprocess.CompletedProcess[str]:
        """One ``kubectl millpond``, whatever its exit status says; TimeoutExpired when it does not end."""
        argv = [sys.executable, "-m", "millpond_cli.main", "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False)

    def get(self, *arguments: str) -> Object:
        """One object, or a list, as JSON."""
        found: Object = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def items(self, *arguments: str) -> list[Object]:
        """The items of a list."""
        found: list[Object] = self.get(*arguments)["items"]
        return found

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Create or change objects."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(listed))

    def wait(self, condition: Callable[[], str], what: str, *, seconds: float, every: float = 0.5) -> float:
        """Wait until ``condition()`` says nothing more (it says what is still missing); returns the seconds it took.

        DemoError after ``seconds``, with what was missing last.
        """
        began = time.monotonic()
        while True:
            try:
                missing = condition()
            except DemoError as error:
                missing = str(error)
            took = time.monotonic() - began
            if not missing:
                return took
            if took > seconds:
                raise DemoError(f"{what}: not after {seconds:.0f} s; {missing}")
            time.sleep(every)

    @contextmanager
    def watch(
        self,
        changed: Callable[[str, Object], None],
        gone: Callable[[str, str], None] = lambda _plural, _name: None,
        paths: Sequence[str] = tuple(f"{GROUP}/{plural}" for plural in KINDS),
    ) -> Iterator[None]:
        """Call ``changed(plural, object)`` for each object of these lists (Millpond's kinds) now and at each change.

        ``gone(plural, name)`` when it is no longer there. One call at a time.
        """
        stop = threading.Event()
        lock = threading.Lock()
        links = [_Watch(self, path, changed, gone, lock, stop) for path in paths]
        try:
            for link in links:
                link.start()
            yield
        finally:
            stop.set()
            for link in links:
                link.close()
            for link in links:
                link.join(timeout=10)

    def connection(self, *, seconds: float) -> http.client.HTTPConnection:
        """A connection to the API server as this kubeconfig's user."""
        config = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        server = urllib.parse.urlsplit(cluster["server"])
        tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        if "client-certificate-data" not in user:
            raise DemoError(
                f"{self.kubeconfig} has no client certificate",
                next_step="use a kubeconfig whose user has client-certificate-data and client-key-data",
            )
        with tempfile.NamedTemporaryFile() as pem:  # ssl reads a client's key from a file only
            pem.write(base64.b64decode(user["client-certificate-data"]))
            pem.write(base64.b64decode(user["client-key-data"]))
            pem.flush()
            tls.load_cert_chain(pem.name)
        return http.client.HTTPSConnection(server.hostname or "", server.port, context=tls, timeout=seconds)


class _Watch(threading.Thread):
    """One kind's watch: list, then changes, again and again until told to stop."""

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        changed: Callable[[str, Object], None],
        gone: Callable[[str, str], None],
        lock: threading.Lock,
        stop: threading.Event,
    ) -> None:
        self._path, self._plural = path, path.rpartition("/")[2]
        super().__init__(name=f"watch-{self._plural}", daemon=True)
        self._cluster, self._changed, self._gone, self._lock, self._stop_asked = cluster, changed, gone, lock, stop
        self._there: set[str] = set()
        self._link: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Break the connection, so that the thread looks up."""
        link = self._link
        if link is not None and link.sock is not None:
            with suppress(OSError):  # it has just ended by itself
                link.sock.shutdown(socket.SHUT_RDWR)  # closing it would not wake who reads from it

    def run(self) -> None:
        while not self._stop_asked.is_set():
            try:
                self._link = self._cluster.connection(seconds=WATCH_SECONDS + 10)
                self._once(self._link)
            except (OSError, ValueError, http.client.HTTPException, DemoError, AttributeError):
                self._stop_asked.wait(0.5)  # closed under our hands, or the API server is away: from the start
            finally:
                if self._link is not None:
                    self._link.close()

    def _once(self, link: http.client.HTTPConnection) -> None:
        link.request("GET", self._path)
        answer = link.getresponse()
        listed = json.loads(answer.read())
        if answer.status != http.HTTPStatus.OK:
            raise ValueError(f"{self._path}: {answer.status}")  # it says nothing about what is there
        for name in self._there - set(names_of(listed["items"])):
            self._lost(name)
        for each in listed["items"]:
            self._tell(each)
        version = listed.get("metadata", {}).get("resourceVersion", "")
        query = urllib.parse.urlencode({"watch": "1", "resourceVersion": version, "timeoutSeconds": WATCH_SECONDS})
        link.request("GET", f"{self._path}?{query}")
        answer = link.getresponse()
        for line in answer:
            if self._stop_asked.is_set():
                return
            event = json.loads(line)
            if event["type"] in ("ADDED", "MODIFIED"):
                self._tell(event["object"])
            elif event["type"] == "DELETED":
                self._lost(event["object"]["metadata"]["name"])
            elif event["type"] == "ERROR":
                return

    def _tell(self, found: Object) -> None:
        with self._lock:
            self._there.add(found["metadata"]["name"])
            self._changed(self._plural, found)

    def _lost(self, name: str) -> None:
        with self._lock:
            self._there.discard(name)
            self._gone(self._plural, name)


def names_of(objects: Sequence[Object]) -> list[str]:
    """Their names."""
    return [each["metadata"]["name"] for each in objects]
