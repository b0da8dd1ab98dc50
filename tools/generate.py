"""Writes what is generated: the CRDs from the model, the gRPC stubs from the protocol files.

python tools/generate.py           everything
python tools/generate.py crds      crds/*.yaml and the chart's copies (committed)
python tools/generate.py stubs     csidriver/millpond_csi/generated (not committed)
python tools/generate.py --check   writes nothing, fails when a committed file differs from what would be written
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "core"), str(ROOT / "tools")]

import generate_crds  # noqa: E402 (after the path is set)
import generate_stubs  # noqa: E402


def main() -> int:
    """Exit status 1 when ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("all", "crds", "stubs"), default="all")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a committed file is outdated")
    options = parser.parse_args()
    if options.check:
        return _check()
    if options.what in ("all", "crds"):
        for path, text in generate_crds.files(ROOT).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    if options.what in ("all", "stubs"):
        for path in generate_stubs.write(ROOT):
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


def _check() -> int:
    wanted = generate_crds.files(ROOT)
    folders = {path.parent for path in wanted}
    outdated = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    stray = [path for folder in folders for path in folder.glob("*.yaml") if path not in wanted]
    for path in sorted(outdated + stray):
        reason = "differs from the model" if path in outdated else "is made by nothing"
        print(f"{path.relative_to(ROOT)} {reason}: run python tools/generate.py crds", file=sys.stderr)
    return 1 if outdated or stray else 0


if __name__ == "__main__":
    sys.exit(main())
