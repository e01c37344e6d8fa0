"""The times at which a replay may start, and the checks of its history before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns.data import Columns
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.time import DAY_US, format_duration, format_time
from trimtab.simulation.scenarios.scenario import Scenario
from trimtab.training.fitting.fit import new_estimator

_LONGEST_US = 365 * DAY_US  # at most this much is replayed if the caller chooses no start
_LONG = 4  # a gap between requests is long if it is longer than the usual gaps by this factor; see `last_request`
_TRIES = 8  # at most this many starts are tried
_LEAST_REPLAYED_US = 14 * DAY_US  # the start should be followed by this many days with final labels


def check_labels(chosen: Sequence[Scenario], tables: Mapping[str, Columns]) -> None:
    """Check that there are labels, that at least one belongs to a request, and that the estimator can be made.

    Raises:
        NotFound: No label was ingested.
        Misuse: No label belongs to a request, or the estimator cannot be made here.
        Unavailable: The library of the estimator is not installed.
    """
    for model in {one.deployment.model.hash: one.deployment.model for one in chosen}.values():
        label, request = model.label, model.request
        rows = tables[label.source.name]
        if not rows.rows:
            raise NotFound(
                f"simulate: no label of model {model.name!r} was ingested, so nothing can be judged. "
                f"Run: trimtab ingest {label.source.name} FILE"
            )
        requested = set(tables[request.name][request.key].to_list())
        if requested.isdisjoint(rows[label.key].to_list()):
            raise Misuse(
                f"simulate: none of {rows.rows:,} labels in {label.source.name!r} belongs to one of {len(requested):,} "
                f"requests {request.name!r}: no label's {label.key!r} equals the {request.key!r} of a request. Load "
                "both from data with the same keys."
            )
        new_estimator(model, model.trust, seed=0, threads=1)


def last_request(asked_us: NDArray[Any]) -> int:
    """Return the time of the newest request, without the stragglers at the end.

    Stragglers are the requests after a long gap, if they are at most 1 % of all requests. So a single request today
    does not prolong a history that ended years ago, or a file of daily rows that ended last month. A gap is long if it
    is longer than half of the history before it. It is also long if it is longer than the history after it, and longer
    than `_LONG` times the longest gap among the first 99 % of the requests.
    """
    first = len(asked_us) - 1 - len(asked_us) // 100
    since_us, gaps = asked_us[first:-1], np.diff(asked_us[first:])
    usual_us = np.diff(asked_us[: first + 1]).max(initial=0)
    long = (gaps > _LONG * usual_us) & (gaps > asked_us[-1] - asked_us[first + 1 :]) & (usual_us > 0)
    long |= gaps > (since_us - asked_us[0]) / 2
    return int(since_us[int(np.argmax(long))] if long.any() else asked_us[-1])


def recording_end(chosen: Sequence[Scenario], tables: Mapping[str, Columns], last_us: int) -> int:
    """Return the time of the newest request or label, with which the recording ends.

    A label does not count if it came after the wait for the label of the newest request was over.

    Args:
        tables: The recorded events by source.
    """
    end_us = last_us
    for label in [one.deployment.model.label for one in chosen]:
        times = tables[label.source.name][label.source.time]
        known_us = times.values[times.present()]
        end_us = max(end_us, int(known_us[known_us <= label.final_at(last_us)].max(initial=last_us)))
    return end_us


def check_judged(chosen: Sequence[Scenario], asked_us: NDArray[Any], span: tuple[int, int], ended_us: int) -> None:
    """Check that at least one replayed request has a final label when the recording ends.

    Raises:
        Misuse: No replayed request has one.
    """
    wait_us = min(one.deployment.model.label.wait_us for one in chosen)
    inside = asked_us[(asked_us >= span[0]) & (asked_us < span[1])]
    if not (inside + wait_us <= ended_us).any():
        raise Misuse(
            f"simulate: none of {len(inside):,} requests between {format_time(span[0])} and {format_time(span[1])} can "
            f"be judged: labels are final after {format_duration(wait_us)}, and the recording ends at "
            f"{format_time(ended_us)}. Start earlier (--start), or load later labels."
        )


class Starts(msgspec.Struct, frozen=True):
    """Times at which a replay may start, earliest first, and the reason why none is earlier."""

    at_us: tuple[int, ...]
    why: str = ""


def starts(chosen: Sequence[Scenario], asked_us: NDArray[Any], ended_us: int) -> Starts:
    """Return midnights at which a replay may start.

    The gate judges a version on the newest days whose labels are final, and the version is fitted on rows whose labels
    were final when these days began. So two waits for labels, the gate's window and some days to learn from lie before
    the start; without a gate, one wait and some days to learn from. If the history is long enough, a quarter of the
    requests also lies before the first start, and at most a year is replayed.

    Args:
        asked_us: The times of all requests, in order.

    Raises:
        Misuse: There are too few days.
    """
    wait_us = max(one.deployment.model.label.wait_us for one in chosen)
    window_us = max((one.deployment.gate.window_us for one in chosen if one.decide is None), default=0)
    before_us = 2 * wait_us + window_us if window_us else wait_us
    first_us, final_us = int(asked_us[0]), ended_us - wait_us
    needed_us = before_us + wait_us + 2 * DAY_US
    wait, window = format_duration(wait_us), format_duration(window_us)
    judged = f"the wait of {wait} for"
    if window_us:
        judged = f"the gate's window of {window}, the wait of {wait} for its labels, and another such wait for"
    if ended_us - first_us < needed_us:
        raise Misuse(
            f"simulate: found {(ended_us - first_us) / DAY_US:.1f} days of requests, {format_time(first_us)} to "
            f"{format_time(ended_us)}; needed are {needed_us / DAY_US:.1f} or more. Before the first replayed day lie "
            f"{judged} the labels to learn from, and after it the wait of {wait} for its own labels. Load a longer "
            "history, or declare a shorter window, or a shorter wait if labels really come sooner."
        )
    last_us = final_us - max(window_us, _LEAST_REPLAYED_US)
    reasons = {
        first_us + before_us + max(window_us, DAY_US): f"before it lie {judged} the labels to learn from.",
        int(asked_us[len(asked_us) // 4]): "a quarter of the requests lies before it.",
        ended_us - _LONGEST_US: "the newest year is replayed; --start TIME replays more.",
    }
    enough_us = max(reasons)
    low_us = min(enough_us, max(first_us + before_us + DAY_US, last_us))
    points = np.linspace(low_us, max(low_us, last_us), _TRIES if last_us > low_us else 1)
    return Starts(tuple(sorted({-(-int(point) // DAY_US) * DAY_US for point in points})), reasons[enough_us])
