"""``kubectl millpond``: what a person asks of the virtualization database, answered in sentences; going still; devices
and nodes that are to go; comparing copies; and the database's two places.

Decides nothing: ``asked`` turns a command line into an object; ``stillness``, ``emptying``, ``maintenance`` and
``scrubs`` follow what was asked for to its end through the ``Kube`` port; ``collected`` has pods look at their disks,
and ``database`` carries out what is planned from them; ``report``, ``explain``, ``planned`` and ``account`` are pure
and make what is shown, ``shown`` is for programs. ``main``, ``devices`` and ``vdb`` have the commands, ``terminal``
what they stand on.
"""
