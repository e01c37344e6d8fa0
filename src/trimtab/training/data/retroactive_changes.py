"""Columns of requests whose values changed after the time of the request."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns


class RetroactiveChange(msgspec.Struct, frozen=True, kw_only=True):
    """How often one column of the request changed after the time of the request.

    The value at that time is only known if the request was logged. Other requests come from history.
    """

    # for how many requests the value (or null) is known both at the time of the request and when the training set is
    # made
    twice: int
    changed: int  # of these, how many have another value when the training set is made
    filled: int  # of the changed ones, how many had no value at the time of the request
    asked: int  # the number of requests whose value at the time of the request is known
    asked_filled: int  # of these, how many had a value
    history: int  # the number of requests that only come from history
    history_filled: int  # of these, how many have a value


def retroactive_changes(
    names: Iterable[str], served: Columns, again: NDArray[np.int64], later: Columns, history: Columns
) -> dict[str, RetroactiveChange]:
    """Compare the columns of requests at the time of the request with their later values.

    Args:
        served: The requests as they were at their time.
        again: The rows of `served` whose later values are known.
        later: The later values of these rows, in the same order.
        history: Requests that are only known from history, with the values that training uses.
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
