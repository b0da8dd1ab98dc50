"""Generated requests for the CSI driver: ``python -m fuzz --count 10000 --seed 1`` (``make fuzz-csi``).

Requests are drawn from the protobuf descriptor, so that a call that is added is covered without a line here. They go
over a unix socket to the real servers, on the API server and the mounts in memory; for half of them the kubelet's
folder is a real one, with links that lead out of it.

* ``words``: what a string of a certain field looks like when it is meant well, and what when it is not.
* ``draw``: hypothesis makes steps out of the descriptor. Only here is chance, and it never depends on an answer, so
  that a seed says everything. It runs as a process of its own: what hypothesis draws depends on which modules are
  loaded.
* ``plan``: a step, a request with how it is sent, as plain data, and the message that it becomes in a certain world.
* ``world``: the services on doubles, their sockets, the tree that must stay as it is.
* ``rules``: what must hold after each answer.
* ``run``: sequences of steps, counted; ``overlap``: calls that overlap, are cut off and come again.
"""
