"""Serving: answers in process, over HTTP, in batch, precomputed; online learning; the prediction log."""

from trimtab.serving.failures import Late, ModelFailed, NotApplied
from trimtab.serving.problems import InvalidField, Refused

__all__ = ["InvalidField", "Late", "ModelFailed", "NotApplied", "Refused"]
