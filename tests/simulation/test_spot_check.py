"""The process that checks the online path knows the plain functions among the features."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import worlds

import trimtab as tt
from trimtab.app.state.definitions import load_definitions
from trimtab.simulation.spot_check import code_of

FUNCTION = """
import math

import trimtab as tt

SCALE = 3.0


@tt.transform(returns=float)
def bent(x: float) -> float:
    return math.atan(x * SCALE)
"""


def replayed(folder: Path, monkeypatch: pytest.MonkeyPatch, bent: Any) -> tuple[int, int, dict[str, str]]:
    monkeypatch.setattr(worlds, "FEATURES", [*worlds.FEATURES, {"bent": bent(tt.col("x"))}])
    line = worlds.never()
    result = worlds.replay(folder / "state", worlds.make(3, days=2), [line], days=2, sampled_rows=30)
    return result.checked_rows, result.mismatches, code_of(line.deployment.model.features)


def test_a_function_of_a_project_file_is_known_to_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "project.py"
    file.write_text(FUNCTION)
    load_definitions(file)
    bent = sys.modules["trimtab_project_project"].bent
    assert replayed(tmp_path, monkeypatch, bent) == (30, 0, {str(file): "trimtab_project_project"})


def test_a_function_of_a_module_in_a_package_is_known_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "spot_features"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "scale.py").write_text("SCALE = 3.0\n")
    (package / "bending.py").write_text(FUNCTION.replace("SCALE = 3.0\n", "from .scale import SCALE\n"))
    monkeypatch.syspath_prepend(str(tmp_path))
    bent = importlib.import_module("spot_features.bending").bent
    assert replayed(tmp_path, monkeypatch, bent) == (30, 0, {str(package / "bending.py"): "spot_features.bending"})
