"""One row through trees that lleaves or treelite made machine code of, beside LightGBM's C interface.  # D1

No benchmark of `make bench`: neither is a dependency. With a Python that has them, and LightGBM:

    python -m venv /tmp/trees && /tmp/trees/bin/pip install -e . lightgbm treelite tl2cgen lleaves llvmlite==0.44.0
    /tmp/trees/bin/python benchmarks/_tree_compilers.py
"""

from __future__ import annotations

import ctypes
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import lightgbm
import numpy as np

from trimtab.training.runtimes import runtime_named

INPUTS, TREES, LEAVES = 30, 100, 31
Call = Callable[[list[float]], float]


class Entry(ctypes.Union):
    """An input as treelite's C code takes it: -1 in `missing` for none."""

    _fields_ = (("missing", ctypes.c_int), ("value", ctypes.c_double))


def by_lleaves(model: Path) -> Call:
    """The function that lleaves compiles, called without its Python around it."""
    import lleaves

    made = lleaves.Model(str(model))
    made.compile()
    given, found = (ctypes.c_double * INPUTS)(), (ctypes.c_double * 1)()
    pack = struct.Struct(f"{INPUTS}d").pack_into

    def call(row: list[float]) -> float:
        pack(given, 0, *row)
        made._c_entry_func(given, found, 0, 1)  # its code goes with `made`
        return found[0]

    return call


def by_treelite(model: Path) -> Call:
    """The function that treelite's C code has, compiled by the machine's C compiler."""
    import tl2cgen
    import treelite

    library = model.with_suffix(".so")
    trees = treelite.frontend.load_lightgbm_model(str(model))
    tl2cgen.export_lib(trees, toolchain="gcc", libpath=str(library), params={})
    function = ctypes.CDLL(str(library)).predict
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p), None
    given, found = (Entry * INPUTS)(), (ctypes.c_double * 1)()
    pack = struct.Struct(f"{INPUTS}d").pack_into

    def call(row: list[float]) -> float:
        pack(given, 0, *row)
        for number, value in enumerate(row):
            if value != value:
                given[number].missing = -1
        found[0] = 0.0  # it adds
        function(given, 0, found)
        return found[0]

    return call


def median_us(call: Call, rows: list[list[float]]) -> float:
    """Of one row, in microseconds."""
    taken = []
    for row in rows:
        begun = time.perf_counter_ns()
        call(row)
        taken.append(time.perf_counter_ns() - begun)
    return median(taken) / 1e3


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20_000, INPUTS))
    x[rng.random(x.shape) < 0.05] = np.nan
    y = np.nansum(x[:, :6], axis=1) + rng.normal(size=len(x)) > 0
    settings = {"objective": "binary", "num_leaves": LEAVES, "verbose": -1, "num_threads": 1, "seed": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, y), TREES)
    asked = x[:2_000].copy()
    asked[:5] = np.array([[np.nan], [0.0], [-0.0], [3e38], [5e-324]])
    expected, rows = booster.predict(asked, num_threads=1), asked.tolist()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.txt"
        booster.save_model(str(model))
        ways: dict[str, Call] = {}
        own = runtime_named("lightgbm").load(model.read_bytes())
        ways["prepared"] = own.row_calls["prepared"]  # type: ignore[assignment]  # one class: a number
        for name, make in (("lleaves", by_lleaves), ("treelite", by_treelite)):
            begun = time.perf_counter()
            ways[name] = make(model)
            print(f"{name}: compiled in {time.perf_counter() - begun:.1f} s")
        for name, call in ways.items():
            found = np.array([call(row) for row in rows])
            best, again = (min(median_us(call, of) for _ in range(5)) for of in (rows, [rows[9]] * len(rows)))
            same, apart = np.mean(found == expected), np.abs(found - expected).max()
            print(f"{name:9} {best:5.2f} us a row, {again:.2f} for one row again and again; ", end="")
            print(f"equal bits in {same:.1%} of {len(rows)} rows, at most {apart:.1g} off")


if __name__ == "__main__":
    main()
