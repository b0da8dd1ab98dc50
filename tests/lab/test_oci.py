"""Image archives, as they are written and read back."""

from __future__ import annotations

import tarfile
from pathlib import Path

from lab import oci


def test_a_program_is_added_to_the_layer_of_another_image(tmp_path: Path) -> None:
    below, program, archive = tmp_path / "below.tar", tmp_path / "program", tmp_path / "image.tar"
    program.write_text("#!/bin/sh\n")
    oci.layer_of(below, {}, {"bin/sh": "busybox"}, texts={"etc/passwd": "root:x:0:0::/:/bin/sh\n" * 200})
    oci.write(archive, "localhost/base:lab", below)
    oci.layer(archive, tmp_path / "layer.tar")
    oci.layer_of(tmp_path / "layer.tar", {"plugin": program}, onto=True)
    with tarfile.open(tmp_path / "layer.tar") as layer:
        assert layer.getnames() == ["etc/passwd", "bin/sh", "plugin"]
        assert layer.getmember("plugin").mode == 0o755
