"""Records that several rooms share; each is a row of some log, journal or catalogue."""

from __future__ import annotations

from typing import Literal

import msgspec

Mode = Literal["live", "batch", "precomputed", "online", "replay"]


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One answer to one request: a row of the prediction log.

    `at_us` and `positions` are the as-of pair (t, P): with the definitions of `version` they say exactly which
    feature values must have been used, and `values` says which were.
    """

    id: str
    request_id: str  # the value of the request's key
    model: str  # "late_flight"
    version: str  # the version's content address
    arm: str  # the alias or deployment line that answered: "champion", "online", ...
    mode: Mode
    made_at_us: int
    at_us: int
    positions: dict[str, int]
    score: float  # probability of the positive class, or the predicted number
    request: bytes  # the request's columns, msgpack array in declared order (times as microseconds)
    values: bytes  # the model's input row, little-endian float64 (NaN = null)
    reasons: bytes  # a code of features.REASONS a model input; 255: no view (a transform)
    flags: tuple[str, ...] = ()  # "stale_fallback", "default_values", ...


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction and what became of it."""

    prediction_id: str
    request_id: str
    version: str
    at_us: int
    score: float
    state: Literal["labelled", "late", "pending", "missing"]
    label: float | None = None
    label_known_at_us: int | None = None


class DayQuality(msgspec.Struct, frozen=True, kw_only=True):
    """How well one version did on the requests of one closed UTC day; sums, so that days add up."""

    model: str
    version: str
    day_us: int  # the day's first microsecond
    predictions: int
    labelled: int
    missing: int
    score_sum: float
    label_sum: float
    loss_sum: float  # log loss (or squared error) over the labelled rows
    capped_loss_sum: float  # the same with each row's loss capped: what the alarm bets on


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """Something a monitor found. `severity` red means act; a monitor without evidence is red too."""

    id: str
    kind: str  # "quality_loss", "quality_calibration", "no_labels", "monitor_stopped", ...
    model: str
    version: str
    raised_at_us: int
    onset_us: int  # the estimated beginning of the change
    severity: Literal["info", "red"]
    evidence: dict[str, float]
    message: str


class GateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence for or against letting a candidate take over."""

    id: str
    model: str
    candidate: str  # version address of what was judged
    champion: str | None  # None: there was none, only the checks without a rival apply
    judged_at_us: int
    window_start_us: int
    window_end_us: int
    rows: int
    metric: str
    candidate_metric: float
    champion_metric: float | None
    difference: float | None  # candidate minus champion, mean per-row loss; negative is better
    bound: float | None  # upper confidence bound of `difference`
    margin: float
    passed: bool
    checks: dict[str, bool]  # each named check and whether it held
    reason: str  # one sentence


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger: an automatic (or human) act, why, on what evidence, what it replaced."""

    sequence: int
    at_us: int
    model: str
    act: str  # "trigger", "wait", "train", "gate", "promote", "refuse", "roll_back", "freeze", ...
    actor: str  # "policy" or a person
    cause: str  # one sentence
    evidence: dict[str, str | int | float | bool | None]
    version: str | None  # what it is about
    replaced: str | None  # what stood there before
    data_hash: str | None
    previous_hash: str  # of the row before; 64 zeros for the first
    hash: str  # of this row without its hash
