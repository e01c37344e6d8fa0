"""Score XGBoost's models through the C interface, without the Python package and its checks of each call.  # D99"""

from __future__ import annotations

import ctypes
import struct
import sys
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import Corrupt, Misuse
from trimtab.training.runtimes.boosters.native import matrix_address, native_library
from trimtab.training.runtimes.ports import Score, check_columns, wrong_row
from trimtab.training.runtimes.scoring_paths import RowCall

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INTERFACE = '{"data": [%d, true], "shape": [%d, %d], "typestr": "<f8", "version": 3}'
_CONFIG = (
    '{"type": 0, "training": false, "iteration_begin": 0, "iteration_end": %d, "missing": NaN, "strict_shape": false, '
    '"cache_id": 0}'
)
_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(lambda _: None)  # ignores what the library would print


def no_linear(what: str) -> Misuse:
    """Return the error for a linear booster. Without trees, the library cannot score rows in memory."""
    return Misuse(
        f'{what}: booster="gblinear" has no trees, without which XGBoost cannot score rows in memory. Take '
        'booster="gbtree", or a linear model of scikit-learn (LogisticRegression, ElasticNet).'
    )


class Booster:
    """A loaded model of the library. Many threads may use it at once."""

    def __init__(self, data: bytes) -> None:
        self.handle = ctypes.c_void_p()  # set first, because `__del__` reads it even if the following code fails
        if data[:1] != b"{":  # other bytes can make the library's parser end the process
            raise Corrupt(f"xgboost: these {len(data)} bytes are not a booster in UBJSON.")
        self.library = native_library("xgboost", "lib/libxgboost.so", "lib/libxgboost.dylib", "lib/xgboost.dll")
        if "xgboost" not in sys.modules:  # if the Python package is loaded, its logging stays as it is
            self.library.XGBRegisterLogCallback(_QUIET)
        self.library.XGBGetLastError.restype = ctypes.c_char_p
        self._done("XGBoosterCreate", None, ctypes.c_uint64(0), ctypes.byref(self.handle))
        try:
            self._done("XGBoosterLoadModelFromBuffer", self.handle, ctypes.c_char_p(data), ctypes.c_uint64(len(data)))
        except OSError as error:
            raise Corrupt(f"xgboost: these {len(data)} bytes are not a booster: {str(error)[:200]}") from error
        self._done("XGBoosterSetParam", self.handle, b"nthread", b"1")  # more threads would wait for each other
        if self._is_linear():
            raise no_linear("xgboost")
        count = ctypes.c_uint64()
        self._done("XGBoosterGetNumFeature", self.handle, ctypes.byref(count))
        self.inputs = count.value
        self.config = (_CONFIG % self._rounds()).encode()

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        check_columns("xgboost", matrix, self.inputs)
        if not len(matrix):
            classes = len(self.scores_of_nulls())
            return np.empty(0 if classes == 1 else (0, classes))
        plain, address = matrix_address(matrix)
        found, shape = self._score(address, len(plain))
        # copied, because the library reuses its array
        return np.array(np.ctypeslib.as_array(found, shape), np.float64)

    def predict_rows(self, rows: list[list[float]]) -> list[Score]:
        """Return the scores of rows, without NumPy."""
        given = (ctypes.c_double * (len(rows) * self.inputs))(*[value for row in rows for value in self.checked(row)])
        found, shape = self._score(ctypes.addressof(given), len(rows))
        if len(shape) == 1:
            return list(found[: len(rows)])
        width = shape[1]
        return [found[at : at + width] for at in range(0, len(rows) * width, width)]

    def predict_row(self, row: list[float]) -> Score:
        return self.predict_rows([row])[0]

    def prepared_call(self) -> RowCall:
        """Return a function that scores one row. Only one thread may use it."""
        return _RowCall(self).score

    def checked(self, row: list[float]) -> list[float]:
        """Return the row, after a check that it has one number for each input."""
        if len(row) != self.inputs:
            raise wrong_row("xgboost", len(row), self.inputs)
        return row

    def scores_of_nulls(self) -> list[float]:
        """Return the score of a row of nulls: one number, or one for each class."""
        row = (ctypes.c_double * self.inputs)(*[float("nan")] * self.inputs)
        found, shape = self._score(ctypes.addressof(row), 1)
        return list(found[: shape[1] if len(shape) == 2 else 1])

    def why(self) -> str:
        """Return the library's message about the last error in this thread."""
        return str(self.library.XGBGetLastError().decode("utf-8", "replace"))

    def _score(self, rows_at: int, rows: int) -> tuple[Any, tuple[int, ...]]:
        """Score rows of float64 in memory. Return the memory address of the scores, and their shape.

        The scores are valid until the next call in this thread.
        """
        interface = (_INTERFACE % (rows_at, rows, self.inputs)).encode()
        shape, dims = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
        found = ctypes.POINTER(ctypes.c_float)()
        self._done(
            "XGBoosterPredictFromDense",
            self.handle,
            interface,
            self.config,
            None,
            ctypes.byref(shape),
            ctypes.byref(dims),
            ctypes.byref(found),
        )
        return found, tuple(shape[: dims.value])

    def _rounds(self) -> int:
        """Return how many rounds (trees) scores use: up to the best, if training was stopped early. 0 means all."""
        text, there = ctypes.c_char_p(), ctypes.c_int()
        self._done("XGBoosterGetAttr", self.handle, b"best_iteration", ctypes.byref(text), ctypes.byref(there))
        return int(text.value) + 1 if there.value and text.value else 0

    def _is_linear(self) -> bool:
        text, size = ctypes.c_char_p(), ctypes.c_uint64()
        self._done("XGBoosterSaveJsonConfig", self.handle, ctypes.byref(size), ctypes.byref(text))
        return b'"name":"gblinear"' in (text.value or b"")

    def _done(self, name: str, *arguments: Any) -> None:
        if self.library[name](*arguments):
            raise OSError(f"xgboost: {name}: {self.why()}")

    def __del__(self) -> None:
        if self.handle:
            self.library.XGBoosterFree(self.handle)


class _RowCall:
    """The call of one thread: rows are written to a buffer, which is described to the library only once."""

    def __init__(self, booster: Booster) -> None:
        inputs = booster.inputs
        self._booster = booster
        self._pack = struct.Struct(f"{inputs}d").pack_into
        self._row = (ctypes.c_double * inputs)()
        self._call = booster.library.XGBoosterPredictFromDense
        self._found = ctypes.POINTER(ctypes.c_float)()
        classes = len(booster.scores_of_nulls())
        self._classes = 0 if classes == 1 else classes
        interface = (_INTERFACE % (ctypes.addressof(self._row), 1, inputs)).encode()
        self._shape, self._dims = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
        self._arguments = (
            booster.handle,
            ctypes.c_char_p(interface),
            ctypes.c_char_p(booster.config),
            None,
            ctypes.byref(self._shape),
            ctypes.byref(self._dims),
            ctypes.byref(self._found),
        )

    def score(self, row: list[float]) -> Score:
        try:
            self._pack(self._row, 0, *row)
        except struct.error:
            self._booster.checked(row)
            raise Misuse("xgboost: a row holds a value that is not a number.") from None
        if self._call(*self._arguments):
            raise OSError(f"xgboost: the one-row call failed: {self._booster.why()}")
        return self._found[: self._classes] if self._classes else self._found[0]
