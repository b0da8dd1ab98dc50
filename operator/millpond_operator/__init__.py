"""The operator: its leader is the master.

Watches and our own writes feed a ``World``; the ``Agenda`` says which object is to be looked at; ``Master``
asks ``millpond_core.master.planner`` for the one next step and takes it. Nothing here decides, nothing is kept but in
objects.
"""
