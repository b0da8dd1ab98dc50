"""What a state manager decides: pure functions ``(record, observed kernel, now) → steps | wait(reason)``.

Law: nothing here does I/O, reads a clock or awaits. A plan is made from one look at the node; whoever carries it out
does its steps in order, stops at the first that fails, looks again and plans anew. So every plan must be right when it
is made again after a kill between any two of its steps.

* ``claim``: a disk becomes a device, or is refused.
* ``legs``: the legs that lie on this node: label, dm, zeroes, export; releasing.
* ``attaching``: what the record wants of the stack on the attach node, and what of it stands. ``attach`` builds and
  keeps it, with ``paths`` (the way to each leg) and ``losing`` (a leg is given up); ``leave`` is the end.
* ``still``: what a quiescence asks of this node.
* ``node``: all of it for one volume, and the report.
"""
