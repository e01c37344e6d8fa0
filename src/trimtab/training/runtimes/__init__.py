"""Model runtimes: one file per library, listed in `table.py`. A library is only imported when it is used."""

from trimtab.training.runtimes.ports import Runtime, Scorer, Trust
from trimtab.training.runtimes.table import runtime_for, runtime_named

__all__ = ["Runtime", "Scorer", "Trust", "runtime_for", "runtime_named"]
