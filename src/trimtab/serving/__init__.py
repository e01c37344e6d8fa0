"""Answer requests with deployed versions: in the same process, over HTTP and gRPC, in batches, or from a store."""

from trimtab.serving.failures import Late, ModelFailed, NotApplied
from trimtab.serving.problems import InvalidField, Refused

__all__ = ["InvalidField", "Late", "ModelFailed", "NotApplied", "Refused"]
