"""Columns of requests whose values changed after request time."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns


class RetroactiveChange(msgspec.Struct, frozen=True, kw_only=True):
    """Counts for one column of the request. A row of a training set is a logged request, or is known from history
    alone.
    """

    twice: int  # the number of requests that are known both at request time and at the cut
    changed: int  # of the requests in `twice`: their value at the cut is another one
    filled: int  # of the requests in `changed`: their value at request time was null
    asked: int  # the number of requests that are known at request time
    asked_filled: int  # of the requests in `asked`: their value was not null
    history: int  # the number of rows that are known from history alone
    history_filled: int


def retroactive_changes(
    names: Iterable[str], served: Columns, again: NDArray[np.int64], later: Columns, history: Columns
) -> dict[str, RetroactiveChange]:
    """Compare the values of columns at request time with the values that are known later.

    Args:
        names: The names of the columns.
        served: Requests at request time.
        again: The rows of `served` whose later values are known.
        later: The later values of these rows, in that order.
        history: Requests that are known from history alone, as they are learnt from.
    """
    return {name: _of(served[name], again, later[name], history[name]) for name in names}


def _of(served: Column, again: NDArray[np.int64], later: Column, history: Column) -> RetroactiveChange:
    before = served.take(again)
    had, has = before.present(), later.present()
    same = np.asarray(before.values == later.values, bool)
    changed = (had != has) | (had & has & ~same)
    return RetroactiveChange(
        twice=int(again.size),
        changed=int(changed.sum()),
        filled=int((changed & ~had).sum()),
        asked=len(served.values),
        asked_filled=int(served.present().sum()),
        history=len(history.values),
        history_filled=int(history.present().sum()),
    )
