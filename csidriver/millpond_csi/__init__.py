"""The CSI driver: ``millpond-csi controller`` and ``millpond-csi node``.

The law of this package: it edits VirtualVolumes and waits, or it mounts what the state manager has assembled; neither
knows the other's job. The services know nothing of gRPC: they take a request and a deadline, return a response or
raise; ``interceptors`` and ``server`` put them on the wire.
"""
