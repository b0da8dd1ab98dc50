"""The virtualization database: the four kinds, as msgspec structs.

These structs are the one source of a kind's shape. ``tools/generate.py`` turns them into the CRDs under ``crds/``:
a field's ``Meta`` gives its description, range and pattern, a struct's ``rules`` its CEL validations. Field names are
snake_case here and camelCase on the wire.
"""

from millpond_core.model.meta import Condition, ConditionStatus, ObjectMeta
from millpond_core.model.quiescence import Quiescence
from millpond_core.model.storagedevice import StorageDevice
from millpond_core.model.storagenode import StorageNode
from millpond_core.model.virtualvolume import VirtualVolume

GROUP = "millpond.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KINDS = (StorageNode, StorageDevice, VirtualVolume, Quiescence)

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "VERSION",
    "Condition",
    "ConditionStatus",
    "ObjectMeta",
    "Quiescence",
    "StorageDevice",
    "StorageNode",
    "VirtualVolume",
]
