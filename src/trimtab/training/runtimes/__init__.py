"""Model runtimes. There is one file per library, which is imported when an estimator of the library is used."""

from trimtab.training.runtimes.ports import Runtime, Scorer, Trust
from trimtab.training.runtimes.table import runtime_for, runtime_named

__all__ = ["Runtime", "Scorer", "Trust", "runtime_for", "runtime_named"]
