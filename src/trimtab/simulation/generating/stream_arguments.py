"""Check the arguments of `stream()`, so that no data are generated from nonsense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trimtab.core.errors import Misuse
from trimtab.core.time import HOUR_US, duration_us
from trimtab.training.definitions import Model

_USUAL_US = (36 * HOUR_US, 47 * HOUR_US)


def is_finite(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return type(value) is not bool and isinstance(value, int | float | np.number) and bool(np.isfinite(value))


def _is_whole(value: Any) -> bool:
    return is_finite(value) and not isinstance(value, float | np.floating)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(is_finite, value)) and value[1] > 0


def check_arguments(
    model: Model,
    seed: Any,
    history: Any,
    days: Any,
    per_day: Any,
    holidays: Any,
    columns: Any,
    weights: Any,
    **more: Any,
) -> None:
    """Check the arguments of `stream()` that are numbers, or lists or dicts of numbers; `more` are single numbers.

    Raises:
        Misuse: One of them is no such thing, or out of range. The message names it.
    """
    counts = {"seed": seed, "history": history, "days": days, "per_day": per_day}
    floats = [name for name, dtype in model.request.columns.items() if dtype == "float"]
    wrong = {name: "a whole number" for name, value in counts.items() if not _is_whole(value)}
    wrong |= {name: "a finite number" for name, value in more.items() if not is_finite(value)}
    if not wrong:
        wrong = {
            name: "0 or more" if name == "seed" else "1 or more" for name in counts if counts[name] < (name != "seed")
        }
        wrong |= {} if more["day_sd"] >= 0 else {"day_sd": "0 or more"}
        wrong |= {} if 0 <= more["missing"] < 1 else {"missing": "a number from 0 to below 1"}
        if not (isinstance(holidays, list | tuple) and all(is_finite(n) and -history <= n < days for n in holidays)):
            wrong["holidays"] = f"a list of days from {-history} to {days - 1}"
        if weights is not None and not (isinstance(weights, Mapping) and all(map(is_finite, weights.values()))):
            wrong["weights"] = "a dict of finite numbers"
        if columns is not None and not (isinstance(columns, Mapping) and all(map(_is_shape, columns.values()))):
            wrong["columns"] = "a dict of pairs: a finite mean, and a standard deviation above 0"
        elif other := next((name for name in columns or () if name not in floats), None):
            raise Misuse(f"stream: columns: found {other!r}, needed a column of floats: {', '.join(floats) or 'none'}.")
    for name, needed in wrong.items():
        found = {**counts, **more, "holidays": holidays, "columns": columns, "weights": weights}[name]
        raise Misuse(f"stream: found {name}={found!r}, needed {needed}.")


def delays_us(model: Model, delay: Any) -> tuple[int, int]:
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
        f"stream: found delay={delay!r}, needed the shortest and the longest delay, such as ('36h', '47h'): above 0, "
        f"in rising order, and at most the wait for labels of model {model.name!r}, {wait_us / HOUR_US:g} h."
    )
