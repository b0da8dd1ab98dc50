#!/bin/sh
# Pins every dependency with hashes. The runtime lock is what goes into the image; the dev lock adds the tools.
set -eu
cd "$(dirname "$0")/.."
compile() {
    pip-compile -q --generate-hashes --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --strip-extras \
        --allow-unsafe --no-header "$@" pyproject.toml
}
compile --extra operator --extra csi -o requirements/runtime.lock
compile --extra operator --extra csi --extra cli --extra dev -c requirements/runtime.lock -o requirements/dev.lock
