"""The fault suite: real kernels, state managers, operator, API server and etcd under faults drawn from a seed.

``python -m faults --count 20 --seed 1`` (``make faults``). A *case* is a fault, where it strikes, and what is going on
when it does; ``plan`` draws cases, nothing else knows chance. Every case ends in the same way, whatever happened:
the fault is undone, and within a bound the volume is whole again without anybody's help, every acknowledged block is
there on each leg recorded in sync, and these legs are equal byte by byte. The first case that does not end so stops the
suite.

* ``field``: three storage nodes in guests, and the control plane. No kubelet: pods are played by ``pod``, attachment as
  the CSI controller asks for it, so that a case takes a minute instead of ten.
* ``kinds`` and ``phases``: what can be done to the field, and when.
* ``ledger``: what was acknowledged, and whether a leg still has it. ``blocks`` runs in the guests and writes.
* ``wedged``: runs in the guests, and says what does not come to an end there.
* ``suite``: one case after another; ``report``: what became of them, also in tables
  (``python -m faults --markdown build/faults/*/report.json``).
"""
