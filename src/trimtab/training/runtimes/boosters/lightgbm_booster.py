"""Score LightGBM's models through the C interface, because the Python package takes seconds to import.

For single rows, each thread describes its buffers to the library once (a prepared call), and then only fills them. This
takes a hundredth of the time of `lightgbm.Booster.predict` (of the Python package).
# D99
"""

from __future__ import annotations

import ctypes
import random
import struct
import sys
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import Corrupt, Misuse
from trimtab.training.runtimes.boosters.native import matrix_address, native_library
from trimtab.training.runtimes.ports import Score, check_columns, wrong_row
from trimtab.training.runtimes.scoring_paths import RowCall, per_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NORMAL, _FLOAT64 = 0, 1  # the values of C_API_PREDICT_NORMAL and C_API_DTYPE_FLOAT64
_ONE_THREAD = b"num_threads=1"  # more threads would wait for each other if other processes run
_PLACES = ("lib/lib_lightgbm.so", "lib/lib_lightgbm.dylib", "bin/lib_lightgbm.dll")
_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(lambda _: None)  # ignores what the library would print


class Booster:
    """A loaded model of the library. Many threads may use it at once."""

    def __init__(self, text: bytes) -> None:
        self.handle = ctypes.c_void_p()  # set first, because `__del__` reads it even if the following code fails
        self.library = native_library("lightgbm", *_PLACES)
        if "lightgbm" not in sys.modules:  # if the Python package is loaded, its logging stays as it is
            self.library.LGBM_RegisterLogCallback(_QUIET)
        self.library.LGBM_GetLastError.restype = ctypes.c_char_p
        rounds = ctypes.c_int()
        arguments = ctypes.c_char_p(text), ctypes.byref(rounds), ctypes.byref(self.handle)
        if self.library.LGBM_BoosterLoadModelFromString(*arguments):
            raise Corrupt(f"lightgbm: these {len(text)} bytes are not a booster: {self._why()}")
        self.inputs = self._number("LGBM_BoosterGetNumFeature")
        self.classes = self._number("LGBM_BoosterNumModelPerIteration")  # 1: there is one number per row

    def names(self) -> tuple[str, ...]:
        """Return the names of the inputs."""
        count, longest = ctypes.c_int(), ctypes.c_size_t()
        size = 0
        while True:  # the first call, without space for names, says how much space is needed
            texts = [ctypes.create_string_buffer(size) for _ in range(self.inputs if size else 0)]
            places = (ctypes.c_char_p * len(texts))(*(ctypes.cast(text, ctypes.c_char_p) for text in texts))
            status = self.library.LGBM_BoosterGetFeatureNames(
                self.handle,
                ctypes.c_int(len(texts)),
                ctypes.byref(count),
                ctypes.c_size_t(size),
                ctypes.byref(longest),
                places,
            )
            if status:
                raise OSError(f"lightgbm: the names of the inputs could not be read: {self._why()}")
            if size or not count.value:
                return tuple(text.value.decode() for text in texts)
            size = longest.value

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        check_columns("lightgbm", matrix, self.inputs)
        plain, address = matrix_address(matrix)
        scores = np.empty(len(plain) * self.classes)
        if len(plain):
            self._score(address, len(plain), scores.ctypes.data)
        return scores if self.classes == 1 else scores.reshape(-1, self.classes)

    def predict_rows(self, rows: list[list[float]]) -> list[Score]:
        """Return the scores of rows, without NumPy."""
        given = (ctypes.c_double * (len(rows) * self.inputs))(*[value for row in rows for value in self.checked(row)])
        scores = (ctypes.c_double * (len(rows) * self.classes))()
        self._score(ctypes.addressof(given), len(rows), ctypes.addressof(scores))
        if self.classes == 1:
            return list(scores)
        return [scores[at : at + self.classes] for at in range(0, len(scores), self.classes)]

    def predict_row(self, row: list[float]) -> Score:
        return self.predict_rows([row])[0]

    def prepared_call(self) -> RowCall | None:
        """Return a function that scores one row. Each thread prepares a call of its own.

        The result is None if the library cannot prepare calls, or if their scores differ from those of a batch.
        """
        draw = random.Random(0)
        rows = [[draw.gauss(0.0, 100.0) for _ in range(self.inputs)] for _ in range(4)]
        rows[1] = [float("nan")] * self.inputs
        rows[2][::2] = rows[1][::2]
        try:
            found = [*map(_RowCall(self).score, rows)]
        except (AttributeError, OSError):  # this version of the library has no such call
            return None
        return per_thread(lambda: _RowCall(self).score) if found == self.predict_rows(rows) else None

    def checked(self, row: list[float]) -> list[float]:
        """Return the row, after a check that it has one number for each input."""
        if len(row) != self.inputs:
            raise wrong_row("lightgbm", len(row), self.inputs)
        return row

    def _score(self, rows_at: int, rows: int, scores_at: int) -> None:
        """Score `rows` rows of float64 at one memory address, and write the scores to another."""
        length = ctypes.c_int64()
        status = self.library.LGBM_BoosterPredictForMat(
            self.handle,
            ctypes.c_void_p(rows_at),
            ctypes.c_int(_FLOAT64),
            ctypes.c_int32(rows),
            ctypes.c_int32(self.inputs),
            ctypes.c_int(1),  # rows are stored one after another
            ctypes.c_int(_NORMAL),
            ctypes.c_int(0),
            ctypes.c_int(-1),
            ctypes.c_char_p(_ONE_THREAD),
            ctypes.byref(length),
            ctypes.c_void_p(scores_at),
        )
        if status:
            raise OSError(f"lightgbm: {rows} rows could not be scored: {self._why()}")

    def _number(self, name: str) -> int:
        found = ctypes.c_int()
        if self.library[name](self.handle, ctypes.byref(found)):
            raise OSError(f"lightgbm: {name} failed: {self._why()}")
        return found.value

    def _why(self) -> str:
        return str(self.library.LGBM_GetLastError().decode("utf-8", "replace"))

    def __del__(self) -> None:
        if self.handle:
            self.library.LGBM_BoosterFree(self.handle)


class _RowCall:
    """The prepared call of one thread, with buffers of its own."""

    def __init__(self, booster: Booster) -> None:
        self._handle = ctypes.c_void_p()  # set first, because `__del__` reads it even if the following code fails
        self._booster = booster  # keep the model alive, because the handle points into it
        library, inputs = booster.library, booster.inputs
        self._free = library.LGBM_FastConfigFree
        self._call = library.LGBM_BoosterPredictForMatSingleRowFast
        self._pack = struct.Struct(f"{inputs}d").pack_into
        self._row = (ctypes.c_double * inputs)()
        self._single = booster.classes == 1
        self._out, self._length = (ctypes.c_double * booster.classes)(), ctypes.c_int64()
        status = library.LGBM_BoosterPredictForMatSingleRowFastInit(
            booster.handle,
            ctypes.c_int(_NORMAL),
            ctypes.c_int(0),
            ctypes.c_int(-1),
            ctypes.c_int(_FLOAT64),
            ctypes.c_int32(inputs),
            ctypes.c_char_p(_ONE_THREAD),
            ctypes.byref(self._handle),
        )
        if status:
            raise OSError("lightgbm: the one-row call could not be prepared")
        self._arguments = (self._handle, self._row, ctypes.byref(self._length), self._out)

    def score(self, row: list[float]) -> Score:
        try:
            self._pack(self._row, 0, *row)
        except struct.error:
            self._booster.checked(row)
            raise Misuse("lightgbm: a row holds a value that is not a number.") from None
        if self._call(*self._arguments):
            raise OSError("lightgbm: the one-row call failed")
        return self._out[0] if self._single else self._out[:]

    def __del__(self) -> None:
        if self._handle:
            self._free(self._handle)
