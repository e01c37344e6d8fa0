"""What the columns of requests held when these were asked, beside what they hold since more became known."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Column, Columns


class Hindsight(msgspec.Struct, frozen=True, kw_only=True):
    """One column of the request. Rows of a training set are known as they were asked, or from history alone."""

    twice: int  # requests that are known both as they were asked and as they stood at the cut
    changed: int  # of these: with another value at the cut
    filled: int  # of those: null when asked
    asked: int  # requests known as they were asked
    asked_filled: int  # of these: with a value
    history: int  # rows that are known from history alone
    history_filled: int


def hindsight(
    names: Iterable[str], asked: Columns, again: NDArray[np.int64], later: Columns, history: Columns
) -> dict[str, Hindsight]:
    """What each column held.

    Args:
        names: The columns.
        asked: Requests as they were asked.
        again: The rows of `asked` that are known as they stood later, too.
        later: These, in that order.
        history: Requests that are known from history alone, as they are learnt from.
    """
    return {name: _of(asked[name], again, later[name], history[name]) for name in names}


def _of(asked: Column, again: NDArray[np.int64], later: Column, history: Column) -> Hindsight:
    before = asked.take(again)
    had, has = before.present(), later.present()
    same = np.asarray(before.values == later.values, bool)
    changed = (had != has) | (had & has & ~same)
    return Hindsight(
        twice=int(again.size),
        changed=int(changed.sum()),
        filled=int((changed & ~had).sum()),
        asked=len(asked.values),
        asked_filled=int(asked.present().sum()),
        history=len(history.values),
        history_filled=int(history.present().sum()),
    )
