"""``kubectl millpond``: what a person asks of the virtualization database, answered in sentences; going still; devices
and nodes that are to go; comparing copies.

Decides nothing: ``asked`` turns a command line into an object; ``stillness``, ``emptying``, ``maintenance`` and
``scrubs`` follow what was asked for to its end through the ``Kube`` port; ``report``, ``explain``, ``planned`` and
``account`` are pure and make what is shown, ``shown`` is for programs. ``main`` and ``devices`` have the commands,
``terminal`` what they stand on.
"""
