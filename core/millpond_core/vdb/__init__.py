"""The virtualization database in two places: compared (``check``), and made anew from the disks (``rebuild``).

``seen`` is what one node tells of its disks and its kernel; ``found`` puts the labels of all nodes together into
volumes.

Law: pure. In doubt nothing is said to be in sync and nothing is imported: a refusal names what would settle it.
"""
