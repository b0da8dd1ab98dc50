"""A Go new enough for the pinned components: the machine's own, or the toolchain that the Go module proxy serves."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from functools import cache as remember
from pathlib import Path

from lab import cache, packages
from lab.command import isolated, run
from lab.progress import say, step

NEEDED = (1, 26)
TOOLCHAIN = "golang.org/toolchain@v0.0.1-go1.26.8.linux-amd64"
_PLACES = ("go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go")


@dataclass(frozen=True)
class Go:
    """A ``go`` command and its version, for example ``go1.26.8``."""

    command: str
    version: str

    def run(self, *arguments: str | Path, seconds: float, cwd: Path, log: Path | None = None) -> str:
        """Run it; Go's own module and build caches are used as they are."""
        env = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
        return run(isolated(["nice", self.command, *arguments]), seconds=seconds, cwd=cwd, log=log, env=env)


@remember
def ensure() -> Go:
    """The Go to build with; installed first where there is none."""
    found = _on_this_machine()
    if found is None:
        packages.install(["golang-go"], why="to build Kubernetes from its pinned sources")
        found = _on_this_machine()
        assert found is not None, "apt-get installed golang-go, but there is no go"
    if _numbers(found.version) >= NEEDED:
        return found
    say(f"{found.command} is {found.version}; {'.'.join(map(str, NEEDED))} is needed, taking it from the module proxy")
    folder = cache.entry("go", cache.key(TOOLCHAIN), lambda scratch: _fetch(found, scratch))
    return Go(str(folder / "go/bin/go"), TOOLCHAIN.split("-")[1].rsplit(".", 1)[0])


def _on_this_machine() -> Go | None:
    for place in _PLACES:
        command = shutil.which(place)
        if command:
            version = run([command, "version"], seconds=60, env={"GOTOOLCHAIN": "local"}).split()[2]
            return Go(command, version)
    return None


def _fetch(old: Go, scratch: Path) -> None:
    with step("Fetching a newer Go", usually=40):
        answer = old.run("mod", "download", "-json", TOOLCHAIN, seconds=900, cwd=scratch)
        shutil.copytree(json.loads(answer)["Dir"], scratch / "go")
        for tools in ("go/bin", "go/pkg/tool"):  # a module's files come without their executable bits
            for path in (scratch / tools).rglob("*"):
                os.chmod(path, 0o755)  # noqa: PTH101


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
