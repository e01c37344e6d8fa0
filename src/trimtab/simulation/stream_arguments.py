"""Check the arguments of `stream()`, so that no data are generated from nonsense."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trimtab.core.errors import Misuse
from trimtab.core.time import duration_us
from trimtab.training.definitions import Model

_USUAL_US = (129_600_000_000, 169_200_000_000)  # 36 h and 47 h


def is_finite(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return type(value) is not bool and isinstance(value, int | float | np.number) and math.isfinite(value)


def _is_whole(value: Any, least: int) -> bool:
    return is_finite(value) and isinstance(value, int | np.integer) and value >= least


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda value: _is_whole(value, 0), "a whole number of 0 or more"),
    **dict.fromkeys(("history", "days", "per_day"), (lambda value: _is_whole(value, 1), "a whole number of 1 or more")),
    **dict.fromkeys(("season", "week"), (is_finite, "a finite number")),
    "day_sd": (lambda value: is_finite(value) and value >= 0, "a finite number of 0 or more"),
    "missing": (lambda value: is_finite(value) and 0 <= value < 1, "a number from 0 to below 1"),
    "weights": (
        lambda value: value is None or (isinstance(value, Mapping) and all(map(is_finite, value.values()))),
        "a dict of finite numbers",
    ),
    "columns": (
        lambda value: value is None or (isinstance(value, Mapping) and all(map(_is_shape, value.values()))),
        "a dict of pairs: a finite mean, and a standard deviation above 0",
    ),
    "holidays": (lambda value: isinstance(value, list | tuple) and all(map(is_finite, value)), "a list of days"),
}


def check_arguments(model: Model, **given: Any) -> None:
    """Check the arguments that are numbers, or lists or dicts of numbers.

    Raises:
        Misuse: One of them is none, or is out of range. The message names it.
    """
    for name, value in given.items():
        check, needed = _CHECKS[name]
        if not check(value):
            raise Misuse(f"stream: found {name}={value!r}, needed {needed}.")
    floats = [name for name, dtype in model.request.columns.items() if dtype == "float"]
    other = next((name for name in given["columns"] or () if name not in floats), None)
    if other is not None:
        raise Misuse(
            f"stream: columns: found {other!r}, needed a column of floats of {model.request.name!r}: "
            f"{', '.join(floats) or 'it has none'}."
        )
    history, days = given["history"], given["days"]
    outside = next((day for day in given["holidays"] if not -history <= day < days), None)
    if outside is not None:
        raise Misuse(f"stream: holidays: found day {outside:g}, needed days from {-history} to {days - 1}.")


def delays_us(model: Model, delay: object) -> tuple[int, int]:
    """Return the shortest and the longest time until a label becomes known, in microseconds.

    Raises:
        Misuse: `delay` is no pair of rising durations above 0, or is longer than the wait for labels.
    """
    wait_us = model.label.wait_us
    if delay is None:
        return _USUAL_US if wait_us > _USUAL_US[1] else (wait_us * 3 // 4, wait_us * 47 // 48)
    if isinstance(delay, list | tuple) and len(delay) == 2:
        least_us, most_us = map(duration_us, delay)
        if 0 < least_us <= most_us <= wait_us:
            return least_us, most_us
    raise Misuse(
        f"stream: found delay={delay!r}, needed the shortest and the longest delay, such as ('36h', '47h'): both above "
        f"0, in rising order, and at most the wait for labels of model {model.name!r}, {wait_us / 3_600_000_000:g} h."
    )


def _is_shape(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_finite, value)) and value[1] > 0
