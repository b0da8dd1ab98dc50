"""The state manager: one on each node, privileged. Observes, plans (``millpond_core.nodeplan``), applies, reports.

Law: what acts is here, what decides is in the core; ports come from ``main`` alone. This file imports nothing: the
watchdog lives in this package too and must stay small.
"""
