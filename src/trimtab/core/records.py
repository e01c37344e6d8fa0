"""Records that several packages read or write. They are stored in logs, in journals or in the catalogue."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from trimtab.core.shown import Shown

Mode = Literal["live", "batch", "precomputed", "online", "replay"]

# Flags of answers that are not ordinary answers of the version: features were null, or the answer was repeated, or came
# from another version or from a rule.
NULL_FEATURES, LAST_ANSWER, FALLBACK_VERSION, RULE = "null_features", "last_answer", "fallback_version", "rule"
BEHIND = "features_behind"  # the flag of an answer that was given while new events were not in the online features
_DEGRADED = frozenset((NULL_FEATURES, LAST_ANSWER, RULE))


# gc=False is safe, because the struct can hold no reference cycle
class Prediction(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """One answer to one request, as a row of the prediction log. The row holds the fields in this order.

    The features were read as of the time `at_us` and the log positions `positions`. Together with the definitions of
    `version`, these decide which feature values were right. `values` are those that were really used.
    """

    id: str
    request_id: str  # the value of the key column in the request
    model: str  # "late_flight"
    version: str  # the hash that identifies the version
    arm: str  # the role of the version: "champion", "canary", ...; "online" if it learns from each label
    mode: Mode
    made_at_us: int
    at_us: int
    positions: dict[str, int]
    # The probability of the positive class, or the predicted number. If `scores` is given: the probability of the
    # likeliest class.
    score: float
    request: bytes  # the columns of the request, as a msgpack array in declared order (times as microseconds)
    values: bytes  # the values of the model's inputs, as little-endian float64 (NaN = null)
    # for each input, the code of the reason for its value (features.REASONS); 255: not from a view, and not failed
    reasons: bytes
    flags: tuple[str, ...] = ()  # "past", "null_features", ...
    scores: dict[str, float] | None = None  # for a model of several classes: the probability of each class

    @property
    def is_degraded(self) -> bool:
        """Return whether features or the model were not available, so that the score says nothing about the version."""
        return bool(self.flags) and not _DEGRADED.isdisjoint(self.flags)

    @property
    def prediction(self) -> str | None:
        """Return the likeliest class, for a model of several classes; the first of equally likely ones."""
        return None if self.scores is None else max(self.scores, key=self.scores.__getitem__)


# a row's loss counts in `capped_loss_sum` with at most the version's cap, by default three times the log loss of the
# score 0.5
LOSS_CAP = 3.0 * math.log(2.0)


class DayQuality(msgspec.Struct, frozen=True, kw_only=True):
    """The quality of one version on the requests of one past UTC day. All values are sums, so they can be added up.

    For a ranking, lists are counted instead of rows. A list whose labels are all equal counts neither as labelled nor
    as missing.
    """

    model: str
    version: str
    day_us: int  # the first microsecond of the day
    predictions: int
    labelled: int
    missing: int  # requests for which no label arrived within the waiting time
    # for several classes, the sum of the likeliest class's scores; for a ranking, this and the next field are 0
    score_sum: float
    label_sum: float  # for several classes, the number of rows whose label was the likeliest class
    loss_sum: float  # the sum of log losses (or squared errors) of the labelled rows
    # the sum of the same losses, each cut to the version's cap (by default `LOSS_CAP`) and divided by it
    capped_loss_sum: float
    # the value that `capped_loss_sum` has on average if the scores are right; None: the scores are not probabilities
    expected_loss_sum: float | None = None
    # for several classes, the rows whose label is no declared class; these are neither labelled nor missing
    unlisted: int = 0
    # for several classes: for each class, the number of its labels and the sum of its probabilities on labelled rows
    classes: dict[str, tuple[float, float]] = {}


class ChangeOnset(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate of when the change behind an alarm began."""

    at_us: int  # the most likely day
    earliest_us: int  # the earliest day that is nearly as likely
    latest_us: int  # the latest day that is nearly as likely


class Signal(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """A finding of a monitor: something about a model changed or went wrong.

    The `severity` "red" means that someone must act. It is also given if a monitor has too few data to judge.
    """

    id: str
    kind: str  # for example "quality_loss", "quality_calibration", "no_labels", "unlisted_labels", "monitor_stopped"
    model: str
    version: str
    raised_at_us: int
    onset_us: int  # the estimated time at which the change began
    severity: Literal["info", "red"]
    evidence: dict[str, float]
    message: str
    subject: str = ""  # for example "column temp", "source weather" or "slice state=CA"; empty: the whole model
    owner: str | None = None  # the person who should act, as declared in the deployment
    # other red findings of that time, which may explain this one, for example "feed_late of source weather"
    cause: str | None = None
    ended_at_us: int | None = None  # None: the finding is still true
    ended_because: str | None = None  # for example "the labels are back" or "late_flight@8 was put in service"


class GateCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One check of a candidate: the value found, and the bound."""

    name: str  # for example "calibrated", "slice carrier=UA" or "latency"
    figure: float | None  # None: the value is no number, or there were no rows to measure it on
    bound: float | None  # the limit that `figure` must not exceed, or the tolerance of the comparison
    verdict: Literal["held", "failed", "no evidence", "not measured"]
    reason: str  # the reason for the verdict, in one sentence


class GateRecord(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The evidence on whether a candidate may take over."""

    id: str
    model: str
    candidate: str  # the id of the candidate version
    champion: str | None  # the id of the champion; None: there was none, so checks that need one were not made
    judged_at_us: int
    window_start_us: int
    window_end_us: int
    rows: int
    metric: str
    candidate_metric: float
    champion_metric: float | None
    # the mean loss per row of the candidate, minus that of the champion; negative: the candidate is better
    difference: float | None
    bound: float | None  # the upper confidence bound of `difference`
    margin: float
    passed: bool
    checks: dict[str, bool]  # whether each named check held
    reason: str  # one sentence
    folds: int = 1  # 2 or more: each part of the window was scored by a fit that learnt from the other parts only
    findings: tuple[GateCheck, ...] = ()  # all checks with their values

    def lines(self) -> list[str]:
        """Return every check in words."""
        width = max((len(one.name) for one in self.findings), default=0)
        return [f"{one.name:{width}}  {one.verdict:12}  {one.reason}".rstrip() for one in self.findings]


class Decision(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """One row of the ledger: an automatic or human act, its cause and evidence, and the version that it replaced."""

    sequence: int
    at_us: int
    model: str
    act: str  # for example "trigger", "wait", "train", "gate", "promote", "refuse", "roll_back" or "freeze"
    actor: str  # "policy", or the name of a person
    cause: str  # the reason, in one sentence
    evidence: dict[str, str | int | float | bool | None]
    version: str | None  # the id of the version that the decision is about
    replaced: str | None  # the id of the version that was replaced
    data_hash: str | None
    previous_hash: str  # the hash of the previous row; 64 zeros for the first row
    hash: str  # the hash of all other fields of this row
