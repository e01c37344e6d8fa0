"""One row through LightGBM's C interface: a prepared call for each thread, a tenth of `Booster.predict`'s time."""

from __future__ import annotations

import ctypes
import struct
import threading
from typing import Any

import lightgbm
import numpy as np

from trimtab.core.errors import Misuse

_NORMAL, _FLOAT64 = 0, 1  # C_API_PREDICT_NORMAL, C_API_DTYPE_FLOAT64


class RowCalls:
    """Scores one row; each thread gets buffers and a handle of its own at its first call."""

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        self._inputs = int(booster.num_feature())
        self._local = threading.local()

    def __call__(self, row: list[float]) -> float:
        try:
            call = self._local.call
        except AttributeError:
            call = self._local.call = _RowCall(self._booster, self._inputs)
        return float(call(row))


def fast_rows(booster: Any) -> RowCalls | None:
    """Prepared calls, once they have given the bits of `Booster.predict` on a few rows; None when they do not."""
    inputs = int(booster.num_feature())
    rows = np.random.default_rng(0).normal(scale=100.0, size=(4, inputs))
    rows[1] = np.nan
    rows[2, ::2] = np.nan
    expected = np.asarray(booster.predict(rows, num_threads=1))
    if expected.shape != (4,):  # several classes: no fast call, and refused when it is fitted
        return None
    try:
        calls = RowCalls(booster)
        found = np.array([calls(row) for row in rows.tolist()])
    except (AttributeError, KeyError, OSError, lightgbm.basic.LightGBMError):  # another version of the library
        return None
    return calls if found.tobytes() == expected.tobytes() else None


class _RowCall:
    def __init__(self, booster: Any, inputs: int) -> None:
        self._handle = ctypes.c_void_p()  # first: `__del__` reads it even when what follows fails
        library: ctypes.CDLL = vars(lightgbm.basic)["_LIB"]
        self._free = library["LGBM_FastConfigFree"]
        self._score = library["LGBM_BoosterPredictForMatSingleRowFast"]
        self._pack = struct.Struct(f"{inputs}d").pack_into
        self._inputs = inputs
        self._row = (ctypes.c_double * inputs)()
        self._out, self._length = ctypes.c_double(), ctypes.c_int64()
        self._booster = booster  # the handle points into it
        status = library["LGBM_BoosterPredictForMatSingleRowFastInit"](
            booster._handle,
            ctypes.c_int(_NORMAL),
            ctypes.c_int(0),
            ctypes.c_int(-1),
            ctypes.c_int(_FLOAT64),
            ctypes.c_int32(inputs),
            ctypes.c_char_p(b"num_threads=1"),
            ctypes.byref(self._handle),
        )
        if status:
            raise OSError("lightgbm: the one-row call could not be prepared")
        self._arguments = (self._handle, self._row, ctypes.byref(self._length), ctypes.byref(self._out))

    def __call__(self, row: list[float]) -> float:
        try:
            self._pack(self._row, 0, *row)
        except struct.error:
            raise Misuse(f"lightgbm: {self._inputs} numbers are needed, {len(row)} values were given.") from None
        if self._score(*self._arguments):
            raise OSError("lightgbm: the one-row call failed")
        return self._out.value

    def __del__(self) -> None:
        if self._handle:
            self._free(self._handle)
