from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from trimtab.core.errors import Misuse
from trimtab.core.expressions import code
from trimtab.core.expressions.code import code_hash, distribution_version

pytestmark = pytest.mark.fast

PROJECT = '''
import numpy as np
import helpers

RATE = 0.1
LIMITS = (1, 2)

def scale(x):
    """Twice."""
    return x * 2

class Mean:
    power = 1
    def fit(self, x, y):
        self.mean = scale(y.mean()) + RATE
        return self

def build():
    return Mean()

def loop(n):
    return n if n == 0 else loop(n - 1)

def through_module(x):
    return helpers.FACTOR * np.log1p(x)

def imports_inside():
    from helpers import make
    return make()

many = [lambda: 1, lambda: 2, lambda: (3, [4])]
two = (lambda x: x + 1, lambda x: x + 1)
call = dict(
    first=1, estimator=lambda: Mean(), last=lambda: None
)
'''
HELPERS = "FACTOR = 2\nOTHER = 5\ndef make():\n    return FACTOR\n"


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    count = iter(range(100))

    def read(project: str = PROJECT, helpers: str = HELPERS) -> ModuleType:
        folder = tmp_path / f"p{next(count)}"
        folder.mkdir()
        (folder / "project.py").write_text(project)
        (folder / "helpers.py").write_text(helpers)
        monkeypatch.syspath_prepend(folder)
        for name in ("project", "helpers"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return importlib.import_module("project")

    return read


def test_the_same_project_in_another_folder_has_the_same_address(load: Callable[..., ModuleType]) -> None:
    first, moved = load(), load("\n\n" + PROJECT)
    for name in ("build", "loop", "through_module", "imports_inside"):
        assert code_hash(getattr(first, name)) == code_hash(getattr(moved, name))
    assert code_hash(first.call["estimator"]) == code_hash(moved.call["estimator"])


@pytest.mark.parametrize(
    ("old", "new"),
    [("RATE = 0.1", "RATE = 0.2"), ("x * 2", "x * 3"), ("power = 1", "power = 2"), ("self.mean =", "self.average =")],
)
def test_a_change_anywhere_below_changes_the_address(load: Callable[..., ModuleType], old: str, new: str) -> None:
    before = load()
    hashes = [code_hash(before.build), code_hash(before.call["estimator"])]
    after = load(PROJECT.replace(old, new))
    assert [code_hash(after.build), code_hash(after.call["estimator"])] != hashes
    assert code_hash(after.build) != hashes[0]


def test_only_what_is_used_of_a_module_counts(load: Callable[..., ModuleType]) -> None:
    base = code_hash(load().through_module)
    assert code_hash(load(helpers=HELPERS.replace("OTHER = 5", "OTHER = 6")).through_module) == base
    assert code_hash(load(helpers=HELPERS.replace("FACTOR = 2", "FACTOR = 3")).through_module) != base


def test_a_module_imported_inside_the_function_counts(load: Callable[..., ModuleType]) -> None:
    base = code_hash(load().imports_inside)
    assert code_hash(load(helpers=HELPERS.replace("FACTOR = 2", "FACTOR = 3")).imports_inside) != base


def test_lambdas_on_one_line_are_told_apart(load: Callable[..., ModuleType]) -> None:
    project = load()
    assert len({code_hash(f) for f in project.many}) == 3
    assert code_hash(project.two[0]) == code_hash(project.two[1])


def test_a_lambda_does_not_change_with_its_neighbours(load: Callable[..., ModuleType]) -> None:
    before = code_hash(load().call["estimator"])
    assert code_hash(load(PROJECT.replace("first=1,", "first=2, other=lambda: 7,")).call["estimator"]) == before


def test_lambdas_are_told_apart_where_no_positions_are_kept(tmp_path: Path) -> None:
    (tmp_path / "many.py").write_text("many = (lambda x: x + 1, lambda x: x + 2, lambda: 5, lambda: None)\n")
    code = "import many; from trimtab.core.expressions.code import code_hash; print(*map(code_hash, many.many))"
    plain, without = (
        subprocess.run([sys.executable, *flags, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        for flags in ((), ("-X", "no_debug_ranges"))
    )
    assert len(set(plain.stdout.split())) == 4
    assert without.stdout == plain.stdout


def test_closure_and_default_values_count() -> None:
    def make(n: int) -> Callable[..., int]:
        return lambda: n

    def with_default(n: int) -> Callable[..., int]:
        def inner(k: int = n) -> int:
            return k

        return inner

    for factory in (make, with_default):
        assert code_hash(factory(1)) == code_hash(factory(1))
        assert code_hash(factory(1)) != code_hash(factory(2))


def test_partials_methods_arrays_and_instances_are_read() -> None:
    weights = np.arange(3.0)

    class Scale:
        def __init__(self, by: float) -> None:
            self.by = by

        def apply(self, x: float) -> float:
            return x * self.by

    def dot(x: Any, w: Any) -> Any:
        return x @ w

    assert code_hash(Scale(2.0).apply) == code_hash(Scale(2.0).apply) != code_hash(Scale(3.0).apply)
    first, second = functools.partial(dot, w=weights), functools.partial(dot, w=weights + 1)
    assert code_hash(first) == code_hash(functools.partial(dot, w=weights.copy())) != code_hash(second)


def test_library_objects_are_known_by_name_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(x: float) -> Any:
        return np.log1p(x)

    before = code_hash(function)
    assert code_hash(function) == before
    monkeypatch.setattr(code, "distribution_version", lambda module: "99.0")  # as another process may find it
    assert code_hash(function) != before


def test_a_function_without_source_is_known_by_its_constants() -> None:
    def compiled(text: str) -> Any:
        space: dict[str, Any] = {}
        exec(text, space)
        return space["f"]

    assert code_hash(compiled("def f(x): return x + 1")) == code_hash(compiled("def f(x): return x + 1"))
    assert code_hash(compiled("def f(x): return x + 1")) != code_hash(compiled("def f(x): return x + 2"))
    assert code_hash(compiled("f = lambda: 1")) != code_hash(compiled("f = lambda: 2"))


def test_a_value_that_cannot_be_read_is_refused() -> None:
    lock = threading.Lock()

    def function() -> bool:
        return lock.locked()

    with pytest.raises(Misuse, match="lock"):
        code_hash(function)


def test_the_distribution_of_a_module_is_found() -> None:
    assert distribution_version("sklearn") is not None
    assert distribution_version("no_such_module_here") is None


def test_the_distributions_of_usual_modules_are_found_without_reading_all(monkeypatch: pytest.MonkeyPatch) -> None:
    by_module = metadata.packages_distributions()
    usual = {"msgspec", "numpy", "sklearn", "xgboost"} & by_module.keys()
    versions = {module: metadata.version(by_module[module][0]) for module in usual}
    caches = code._distributions, code.distribution_version
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(metadata, "packages_distributions", dict)
    try:
        assert "sklearn" in usual
        assert {module: distribution_version(module) for module in usual} == versions
        assert code._distributions.cache_info().currsize == 0
        assert distribution_version("no_such_module_here") is None
        assert code._distributions.cache_info().currsize == 1
    finally:
        for cache in caches:
            cache.cache_clear()


def test_only_what_is_used_of_a_module_counts_in_a_long_function_too(load: Callable[..., ModuleType]) -> None:
    names = "".join(f"    global_{n}\n" for n in range(300))
    project = PROJECT + f"\ndef long(x):\n{names}    return helpers.FACTOR\n"
    base = code_hash(load(project).long)
    assert code_hash(load(project, HELPERS.replace("OTHER = 5", "OTHER = 6")).long) == base
    assert code_hash(load(project, HELPERS.replace("FACTOR = 2", "FACTOR = 3")).long) != base
