"""Records that several packages share. Each is a row of a log, a journal or a catalogue."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

Mode = Literal["live", "batch", "precomputed", "online", "replay"]

# Flags of answers that were given instead of the answer of the version itself,
NULL_FEATURES, LAST_ANSWER, FALLBACK_VERSION, RULE = "null_features", "last_answer", "fallback_version", "rule"
BEHIND = "features_behind"  # and of answers that were made while no event is applied to online features
_DEGRADED = frozenset((NULL_FEATURES, LAST_ANSWER, RULE))


# the struct can hold no reference cycle
class Prediction(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One answer to one request: a row of the prediction log, which holds the fields in this order.

    `at_us` and `positions` are the time and the log positions as of which the features were read. Together with the
    definitions of `version` they say exactly which feature values must have been used. `values` holds the values that
    were used.
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
    # probability of the positive class, or the predicted number; with `scores`, the probability of the likeliest class
    score: float
    request: bytes  # the request's columns, as a msgpack array in declared order (times as microseconds)
    values: bytes  # the model's input row, as little-endian float64 (NaN = null)
    reasons: bytes  # for each model input a code of features.REASONS; 255: the input is not from a view (a transform)
    flags: tuple[str, ...] = ()  # "past", "null_features", ...
    scores: dict[str, float] | None = None  # the probability of each class, for a model of several classes

    @property
    def is_degraded(self) -> bool:
        """Return whether features, model or both were unavailable. If so, the score says nothing about the version."""
        return bool(self.flags) and not _DEGRADED.isdisjoint(self.flags)

    @property
    def prediction(self) -> str | None:
        """Return the likeliest class of a model of several classes. Of equally likely classes it is the first."""
        return None if self.scores is None else max(self.scores, key=self.scores.__getitem__)


# three times the loss of a coin toss: the most that one row can add to the loss of a day
LOSS_CAP = 3.0 * math.log(2.0)


class DayQuality(msgspec.Struct, frozen=True, kw_only=True):
    """Quality of one version on the requests of one closed UTC day. All values are sums, so days can be added.

    For a ranking, lists are counted instead of rows. Lists that are neither labelled nor missing have labels that are
    all alike.
    """

    model: str
    version: str
    day_us: int  # the day's first microsecond
    predictions: int
    labelled: int
    missing: int  # no label came within the wait
    score_sum: float  # several classes: the scores of the likeliest class; a ranking: 0, as is the next
    label_sum: float  # several classes: how often the likeliest class was the label
    loss_sum: float  # log loss (or squared error) over the labelled rows
    capped_loss_sum: float  # this sum with each row's loss capped
    # The expected value of `loss_sum` if the scores are right; None: the scores of this metric are not probabilities.
    expected_loss_sum: float | None = None
    unlisted: int = 0  # several classes: rows whose label was not declared, which are neither labelled nor missing


class ChangeOnset(msgspec.Struct, frozen=True, kw_only=True):
    """The estimated beginning of the change that raised an alarm."""

    at_us: int  # the likeliest day
    earliest_us: int  # the earliest day that is nearly as likely
    latest_us: int  # the latest day that is nearly as likely


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """A finding of a monitor.

    `severity` red means that someone must act. A monitor without evidence is red, too.
    """

    id: str
    kind: str  # "quality_loss", "quality_calibration", "no_labels", "unlisted_labels", "monitor_stopped", ...
    model: str
    version: str
    raised_at_us: int
    onset_us: int  # the estimated beginning of the change
    severity: Literal["info", "red"]
    evidence: dict[str, float]
    message: str
    subject: str = ""  # "column temp", "source weather", "slice state=CA"; empty: the model as a whole
    owner: str | None = None  # who should act, as the deployment declares
    cause: str | None = None  # another finding at that time that may explain this one
    ended_at_us: int | None = None  # None: the finding still holds
    ended_because: str | None = None  # "the labels are back", "repaired by late_flight@8"


class GateCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a candidate: the value found, and the bound."""

    name: str  # "calibrated", "slice carrier=UA", "latency", ...
    figure: float | None  # None: the value is not a number, or there were no rows to measure it on
    bound: float | None  # the limit of `figure`, or its tolerance
    verdict: Literal["held", "failed", "no evidence", "not measured"]
    reason: str  # one sentence


class GateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence for or against letting a candidate take over."""

    id: str
    model: str
    candidate: str  # the candidate's version address
    champion: str | None  # None: there was no champion; only the checks without a champion apply
    judged_at_us: int
    window_start_us: int
    window_end_us: int
    rows: int
    metric: str
    candidate_metric: float
    champion_metric: float | None
    difference: float | None  # mean loss per row of the candidate minus that of the champion; negative is better
    bound: float | None  # upper confidence bound of `difference`
    margin: float
    passed: bool
    checks: dict[str, bool]  # whether each named check held
    reason: str  # one sentence
    folds: int = 1  # 2 or more: each part of the window was scored by a fit on the other parts
    findings: tuple[GateCheck, ...] = ()  # all checks with their values; empty if an earlier trimtab wrote the record

    def lines(self) -> list[str]:
        """Return every check in words. Records of an earlier trimtab only say whether each check held."""
        found = [(one.name, one.verdict, one.reason) for one in self.findings]
        found = found or [(name, "held" if held else "failed", "") for name, held in self.checks.items()]
        width = max((len(name) for name, _, _ in found), default=0)
        return [f"{name:{width}}  {verdict:12}  {reason}".rstrip() for name, verdict, reason in found]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger: an automatic or human act, its cause and evidence, and the version it replaced."""

    sequence: int
    at_us: int
    model: str
    act: str  # "trigger", "wait", "train", "gate", "promote", "refuse", "roll_back", "freeze", ...
    actor: str  # "policy" or a person
    cause: str  # one sentence
    evidence: dict[str, str | int | float | bool | None]
    version: str | None  # the version that the decision is about
    replaced: str | None  # the previous version
    data_hash: str | None
    previous_hash: str  # hash of the previous row; 64 zeros for the first
    hash: str  # hash of this row without this field
