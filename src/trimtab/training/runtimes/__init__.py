"""What fits, saves and scores: one file a library, which is imported only when an estimator of it is met."""

from trimtab.training.runtimes.choose import runtime_for, runtime_named
from trimtab.training.runtimes.ports import Runtime, Scorer, Trust

__all__ = ["Runtime", "Scorer", "Trust", "runtime_for", "runtime_named"]
