"""Kubernetes' own tests of storage drivers (``External.Storage`` of ``e2e.test``), on the lab's cluster.

``python -m external`` (``make e2e-kubernetes``) builds the tests from the module of the lab's Kubernetes, and the
images that their pods use, boots a cluster, installs the chart, and runs whatever is written for a driver that can do
what ours can. What is skipped is known, each with its reason; a skip that is not known is a failure.

* ``definition``: what the tests are told of the driver; ``parts``: which run, in which order, under which bounds.
* ``images``: the images that pods of the tests use, under names that no registry has.
* ``known``: what is left out or skipped, and why.
* ``outcome``: reads Ginkgo's JUnit file, and judges it.
* ``run``: the cluster, and one part on it.
"""
