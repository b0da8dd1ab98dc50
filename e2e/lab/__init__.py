"""The lab: real kernels and a real Kubernetes cluster on one machine, without Docker and without a registry.

Everything here is standard library only, so that it runs with a plain ``python3`` before anything is installed.
Everything that takes long is kept in a cache outside the tree, keyed by its inputs, and built once.
Everything that is started is recorded before it starts, so that ``down`` finds it also after an interruption.

Layers, each importing only from those above it::

    errors  progress  paths            words for people, places
    command  processes  cache          children with deadlines, recorded daemons, build-once folders
    packages  debian  kernels  golang  what is installed, bootstrapped and compiled
    qmp  agent  qemu                   one virtual machine and how to talk to it
    guest                              one machine for the kernel tier
    pki  controlplane                  etcd, API server and friends as processes of the host
    images  cluster                    container images; three nodes and a control plane
"""
