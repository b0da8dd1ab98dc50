"""``python -m demo``: see ``--help``."""

from demo.cli import main

raise SystemExit(main())
