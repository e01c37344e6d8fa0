"""The code in an exported folder: the file standalone.py, with the text of the functions that it imports."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimtab.core.errors import Misuse
from trimtab.stats import recalibration
from trimtab.training.fitting.classes import all_classes
from trimtab.training.fitting.standardize import standardized
from trimtab.training.runtimes.formats import ExportedCode
from trimtab.training.runtimes.table import runtime_named

_BEGIN, _END = "# <copied>\n", "# </copied>\n"
_MAPS = (recalibration.map_log_odds, recalibration.map_steps, recalibration.map_class_odds)
_LIMITS = ("_EDGE", "_STEEPEST")


def exported_scorer(runtime: str, data: bytes, inputs: list[str]) -> Callable[[Any], Any]:
    """Return the scorer of an exported model file. It runs the same code as the export."""
    return _code_of(runtime).scorer(data, inputs)


def exported_code(runtime: str) -> str:
    """Return the text of a Python file that scores exported models of one runtime (library) without trimtab."""
    text = Path(__file__).with_name("standalone.py").read_text("utf-8")
    before, _, rest = text.partition(_BEGIN)
    limits = "".join(f"{name} = {getattr(recalibration, name)!r}\n" for name in _LIMITS)
    functions = [inspect.getsource(function) for function in (*_MAPS, all_classes, standardized)]
    scorer = (
        f"{_code_of(runtime).text()}\n\ndef exported_scorer(runtime, data, inputs):\n"
        '    """The scorer of the model file."""\n    return score_exported(data, inputs)\n'
    )
    return before + "\n\n".join([limits, *functions, scorer]) + "\n" + rest.partition(_END)[2]


def _code_of(runtime: str) -> ExportedCode:
    code = runtime_named(runtime).format.exported
    if code is None:
        raise Misuse(f"runtime {runtime}: its models cannot be exported. Score them through trimtab.")
    return code
