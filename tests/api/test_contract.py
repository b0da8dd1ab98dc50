"""Our adapter on a real API server keeps what the port promises: the same tests that the one in memory passes."""

from kube_contract import *  # noqa: F403 (the contract's tests become ours)
