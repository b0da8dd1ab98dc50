"""The adapters: I/O without decisions. Each implements one port of ``millpond_core.ports``; nothing else does I/O.

Every call has a deadline, starts what may block as a child, and raises a ``MillpondError``.
"""
