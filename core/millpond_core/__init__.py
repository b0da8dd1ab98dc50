"""Millpond's decisions.

The law of this package: no I/O, no clock, no await. Everything here is a pure function of its arguments; time is a
parameter. Whatever acts on the world is an adapter behind a port (``ports``), chosen in a process's ``main``.
"""

__version__ = "0.1.0"
