"""``kubectl millpond``: what a person asks of the virtualization database, answered in sentences; going still; nodes.

Decides nothing: ``asked`` turns a command line into an object, ``stillness`` follows it to its end through the ``Kube``
port, ``maintenance`` follows an intent; ``report`` and ``explain`` are pure and make what is shown, ``shown`` is for
programs, ``terminal`` is where sentences and exit statuses go.
"""
