"""The messages of the CSI and of the kubelet's registration, as generated from ``proto/``."""

try:
    from millpond_csi.generated import csi_pb2 as csi
    from millpond_csi.generated import pluginregistration_pb2 as registration
except ImportError as error:
    raise ImportError(f"{error}: the gRPC stubs are made by `python tools/generate.py stubs`") from error

__all__ = ["csi", "registration"]
