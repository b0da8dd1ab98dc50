#!/bin/sh
# Makes (once for each lock file) a virtual environment in Millpond's cache and prints the path of its python.
# Everything else is installed by the parts that need it; progress goes to standard error.
set -eu
cd "$(dirname "$0")/.."
cache=${MILLPOND_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millpond}
python=${PYTHON:-python3}

say() { echo "millpond: $*" >&2; }
fail() { say "$*"; exit 1; }

command -v "$python" >/dev/null || fail "no $python found: install Python 3.11 or newer, or set PYTHON=/path/to/python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is older than 3.11: install a newer one and set PYTHON=/path/to/python"

key=$({ cat requirements/dev.lock; "$python" -c 'import sys; print(sys.version, sys.prefix)'; } | sha256sum | cut -c1-16)
venv=$cache/venv-$key
if [ ! -x "$venv/bin/python" ]; then
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        say "installing python3-venv with apt-get (Python's venv module has no pip here)"
        sudo=$([ "$(id -u)" = 0 ] || echo sudo)
        { $sudo apt-get update -qq && $sudo apt-get install -y -qq python3-venv; } >&2 ||
            fail "could not install python3-venv: install it by hand and run the command again"
    fi
    say "installing the Python tools into $venv (once for each lock file, about a minute)"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/venv-making.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # Made in place of its final name: a venv's scripts carry their own path.
    "$python" -m venv "$work/venv" >&2
    "$work/venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.lock >&2 ||
        fail "pip could not install requirements/dev.lock: see its message above"
    # Two makes at once: the first to arrive wins, the other's copy goes.
    sed -i "s|$work/venv|$venv|g" "$work/venv/bin/"* 2>/dev/null || true
    mv -T "$work/venv" "$venv" 2>/dev/null || [ -x "$venv/bin/python" ] || fail "could not create $venv"
fi
echo "$venv/bin/python"
