"""The declaration of a deployment: when to retrain, what a candidate must prove, and how the model learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Literal

import msgspec

from trimtab.core.errors import Misuse
from trimtab.core.expressions.nodes import Expression
from trimtab.core.hashing import content_hash
from trimtab.core.time import DAY_US, duration_us, format_duration
from trimtab.serving.answer.score_cache import Cache
from trimtab.serving.protect.degradation import Degradation
from trimtab.stats.metrics.loss_names import PROBABILITIES
from trimtab.steering.causes import OnEstimatedDrop, Trigger, Triggers, triggers_of
from trimtab.steering.rollouts import Rollout
from trimtab.training.definitions import Model, checked_slices

Learn = Literal["batch", "online"]
ALWAYS_COMPARED = ("constant", "random")  # baselines without features, which are added to every declared list
_BASELINES = ("last_value", "seasonal_naive", "last_year", "as_shown", "best_feature", "linear")
_REFIT_SHARE = 0.5
# for each number of a gate, a test of its value, and the text that says what is needed
_NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "margin": (math.isfinite, "a finite number such as 0.01"),
    "level": (lambda given: 0.5 < given < 1, "a number above 0.5 and below 1"),
    "calibration": (lambda given: 0 <= given < math.inf, "0 or more: how far mean score and mean label may differ"),
    "slice_margin": (lambda given: 0 <= given < math.inf, "0 or more: how much worse a slice may be"),
    "calibration_error": (lambda given: 0 < given < 1, "a distance between 0 and 1"),
    "refit_distance": (lambda given: 0 < given < math.inf, "a number above 0, or leave it out"),
    "refit_share": (lambda given: 0 < given < math.inf, "a number above 0, or leave it out"),
}
LEAST_WINDOW_US = 7 * DAY_US  # with fewer days, the standard error would be too large for any useful margin


class NamedSlice(msgspec.Struct, frozen=True):
    """A named expression over columns and features. If it is a bool, the rows where it is True are one slice.

    Otherwise each of its values gives a slice.
    """

    name: str
    of: Expression

    def __str__(self) -> str:
        return f"{self.name}: {self.of!r}"


class BeatsChampion(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of a gate: what a candidate must prove on the newest days that candidate and champion have not seen."""

    margin: float = 0.0  # by how much the mean loss must be lower; if negative, by how much it may be higher
    level: float = 0.9  # the one-sided confidence with which the candidate must be better
    window_us: int = 14 * 86_400_000_000
    # the largest |mean score - mean label|; for numbers, in standard deviations of the labels
    calibration: float = 0.03
    slices: tuple[str | NamedSlice, ...] = ()  # columns and features, each value of which is a slice, and expressions
    slice_margin: float = 0.0  # by how much the mean loss of a slice may be larger than the champion's
    # the largest distance between predicted and observed shares over bins; None: no limit
    calibration_error: float | None = None
    latency_us: int | None = None  # the largest 99th percentile of the time of a one-row prediction; None: no limit
    # A field that is unset has its default, and does not affect the hash of the declaration.
    slices_may_abstain: Literal[True] | msgspec.UnsetType = msgspec.UNSET
    # the baselines to beat in addition to the constant; unset: all; False: none, not even the constant
    baselines: tuple[str, ...] | bool | msgspec.UnsetType = msgspec.UNSET
    # the largest distance between a candidate and its refit (the final fit on more data), in label units (see
    # gate/scales.py)
    refit_distance: float | msgspec.UnsetType = msgspec.UNSET
    # the same limit as a share of the distance between candidate and champion; the larger of both limits counts
    refit_share: float | msgspec.UnsetType = msgspec.UNSET
    # whether scheduled refits must be provably better, too
    prove_refreshes: Literal[True] | msgspec.UnsetType = msgspec.UNSET

    @property
    def share_of_change(self) -> float:
        """The set or default `refit_share`."""
        return _REFIT_SHARE if self.refit_share is msgspec.UNSET else self.refit_share

    def compares(self, baseline: str) -> bool:
        """Return whether a candidate must beat a baseline. The constant need not be in a declared list."""
        if isinstance(self.baselines, tuple):
            return baseline in (*ALWAYS_COMPARED, *self.baselines)
        return self.baselines is not False


_USUAL_GATE = BeatsChampion()


class _FirstRules(msgspec.Struct, frozen=True):
    """The first four rules of a gate. If no other rule is set, only these four are hashed."""

    margin: float
    level: float
    window_us: int
    calibration: float


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """A model in service, with the rules of its loop. `deployment()` makes and checks one."""

    model: Model
    retrain: Triggers
    gate: BeatsChampion
    learn: Learn = "batch"
    # how long no repair begins after a promotion and, for the same kind of cause, after a refusal; each further refusal
    # doubles it
    cooldown_us: int = 7 * 86_400_000_000
    settle_us: int = 7 * 86_400_000_000  # how long a repair waits after the data began to change
    fits_per_day: int | None = None  # how many fits automation may make; None: no limit
    fits_per_week: int | None = None
    approval_us: int | None = None  # how long a candidate waits for approval; None: it needs no approval
    rollout: Rollout | None = None  # the stages from the gate to full service; None: there are none
    degrade: Degradation | None = None  # what to answer if features or model fail; does not affect the hash
    cache: Cache | None = None  # a cache for scores of the version in service; does not affect the hash
    owner: str | None = None  # who is responsible for signals about the deployment; does not affect the hash

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def hash(self) -> str:
        """The hash of the model's recipe (definition and way of fitting) and of these rules."""
        gate = self.gate
        first = _FirstRules(gate.margin, gate.level, gate.window_us, gate.calibration)
        plain = gate == BeatsChampion(
            margin=gate.margin, level=gate.level, window_us=gate.window_us, calibration=gate.calibration
        )
        rules: list[object] = [self.retrain, first if plain else gate, self.learn, self.cooldown_us, self.settle_us]
        rules += [] if self.approval_us is None else [self.approval_us]
        budget = [self.fits_per_day, self.fits_per_week]
        rules += [] if budget == [None, None] else [["fits", *budget]]
        rules += [] if self.rollout is None else [["rollout", self.rollout]]
        return content_hash([self.model.hash, *rules])


_collected: ContextVar[list[Deployment] | None] = ContextVar("collected_deployments", default=None)


def collect_deployments(into: list[Deployment] | None) -> None:
    """Let `deployment()` add each deployment to `into`, while a project file is read. None ends this."""
    _collected.set(into)


def beats_champion(
    *,
    margin: float = 0.0,
    level: float = 0.9,
    window: str | int = "14d",
    calibration: float = 0.03,
    slices: Sequence[str] | Mapping[str, Expression] = (),
    slice_margin: float = 0.0,
    calibration_error: float | None = None,
    latency: str | int | None = None,
    slices_may_abstain: bool = False,
    baselines: Sequence[str] | bool | None = None,
    refit_distance: float | None = None,
    refit_share: float | None = None,
    prove_refreshes: bool = False,
) -> BeatsChampion:
    """Declare that a candidate must beat the champion: its mean loss must be lower by `margin`, and provably lower.

    A scheduled refit of the recipe in service only needs a mean loss that is not provably higher, at most a quarter
    higher, and lower by `margin` if one is declared.

    Args:
        margin: By how much the mean loss on the window must be lower. If negative, the loss may be higher by this much,
            and the candidate must be provably no worse than that. Use this to replace a model for another reason than
            its loss.
        level: The one-sided confidence with which the candidate must be better. Rows of one day are not taken as
            independent. With 0.9, one in ten candidates that are only as good as the champion passes. This does no
            harm, because the quality of promoted versions is watched.
        window: The length of the window: the newest days with labels that candidate and champion have not seen.
        calibration: The largest allowed distance between mean score and mean label, for numbers as a share of the
            standard deviation of the labels. For a quantile, and for an absolute error, whose aim is the median, it is
            the distance between the quantile and the share of labels up to the score. If the champion's distance is
            larger, that distance is allowed. Only a provably larger distance is refused and, without a champion, one
            of more than twice the limit.
        slices: Names of request columns and features, each value of which is a slice, or a dict of expressions by slice
            name. A candidate is refused if it is provably worse than the champion on a slice. Of candidates that are
            worse on no slice, at most one in twenty is refused.
        slice_margin: By how much the mean loss of a slice may be larger than the champion's.
        calibration_error: The largest root mean squared distance between predicted and observed shares over ten bins. A
            candidate is refused if its distance provably exceeds both this and the champion's. Only for models that
            predict the probability of one class.
        latency: The largest 99th percentile of the time of one-row predictions, such as "5ms". The gate measures it.
        slices_may_abstain: Whether a candidate may pass if no slice has enough rows to be judged.
        baselines: The baselines that a candidate must beat, even if the champion does not (but a scheduled refit need
            only be better than such a champion): "last_value", "seasonal_naive", "last_year" and "linear"; for a
            ranking "as_shown", "best_feature" and "linear". A constant (in a ranking, a random order) is always added.
            By default, a candidate must beat all. False: it need not beat any, not even the constant.
        refit_distance: The largest mean distance between the scores of the candidate and of its refit. By default, it
            is 0.1 for probabilities, and 0.25 standard deviations of the labels for numbers. In a ranking, it is how
            far a row moves, as a share of the list's length, by default 0.2.
        refit_share: The same limit as a share of the distance between candidate and champion, by default 0.5. The
            larger of the two limits counts, so after a large change of the data, the scores may differ more.
        prove_refreshes: Whether a scheduled refit (also one because of new labels) must be provably better, too.

    Raises:
        Misuse: A baseline is unknown; a margin, level or distance is not a number or makes no sense; the window is
            shorter than 7 days; or slices are neither a list of names nor expressions by name.
    """
    window_us = duration_us(window)
    if window_us < LEAST_WINDOW_US:
        least = format_duration(LEAST_WINDOW_US)
        raise Misuse(f"beats_champion: window={window!r} is too short to prove anything. Give {least} or more.")
    optional = {"calibration_error": calibration_error, "refit_distance": refit_distance, "refit_share": refit_share}
    numbers = {"margin": margin, "level": level, "calibration": calibration, "slice_margin": slice_margin}
    numbers |= {name: number for name, number in optional.items() if number is not None}
    for name, number in numbers.items():
        fits, wanted = _NUMBERS[name]
        if isinstance(number, bool) or not isinstance(number, int | float) or not fits(number):
            raise Misuse(f"beats_champion: {name}={number!r}. Give {wanted}.")
    latency_us = None if latency is None else duration_us(latency)
    if latency_us == 0:
        raise Misuse(f'beats_champion: latency={latency!r} would refuse every version. Give a limit such as "5ms".')
    return BeatsChampion(
        margin=margin,
        level=level,
        window_us=window_us,
        calibration=calibration,
        slices=_given_slices(slices),
        slice_margin=float(slice_margin),
        calibration_error=calibration_error,
        latency_us=latency_us,
        slices_may_abstain=True if slices_may_abstain else msgspec.UNSET,
        baselines=msgspec.UNSET if baselines is None or baselines is True else _given_baselines(baselines),
        refit_distance=msgspec.UNSET if refit_distance is None else float(refit_distance),
        refit_share=msgspec.UNSET if refit_share is None else float(refit_share),
        prove_refreshes=True if prove_refreshes else msgspec.UNSET,
    )


def _given_baselines(names: Sequence[str] | Literal[False]) -> tuple[str, ...] | bool:
    if names is False:
        return False
    known = (*ALWAYS_COMPARED, *_BASELINES)
    if isinstance(names, str) or not isinstance(names, Sequence) or any(name not in known for name in names):
        raise Misuse(
            f"beats_champion: baselines={names!r}. Give a list of: {', '.join(_BASELINES)}; or False for no baseline."
        )
    return tuple(name for name in _BASELINES if name in names)


def _given_slices(slices: Sequence[str] | Mapping[str, Expression]) -> tuple[str | NamedSlice, ...]:
    wanted = (
        'Give a list of names (slices=["carrier"]) or expressions by name (slices={"far": tt.col("distance") > 1000}).'
    )
    if isinstance(slices, Mapping):
        for name, of in slices.items():
            if not isinstance(name, str) or not isinstance(of, Expression):
                raise Misuse(f"beats_champion: slices[{name!r}] is {of!r}. {wanted}")
        return tuple(NamedSlice(name, of) for name, of in slices.items())
    # not a set, because its order, and with it the hash of the deployment, differs from process to process
    if isinstance(slices, str) or not isinstance(slices, Sequence) or not all(isinstance(one, str) for one in slices):
        raise Misuse(f"beats_champion: slices={slices!r}. {wanted}")
    return tuple(dict.fromkeys(slices))


def deployment(
    model: Model,
    *,
    retrain: Trigger | Triggers | None = None,
    gate: BeatsChampion = _USUAL_GATE,
    learn: Learn = "batch",
    cooldown: str | int = "7d",
    settle: str | int = "7d",
    approval: str | int | None = None,
    rollout: Rollout | None = None,
    fits_per_day: int | None = None,
    fits_per_week: int | None = None,
    degrade: Degradation | None = None,
    cache: Cache | None = None,
    owner: str | None = None,
) -> Deployment:
    """Declare a deployment: a model in service, with the rules of its loop.

    Args:
        model: The model that answers requests.
        retrain: When to retrain: `on_quality_drop()`, `on_slice_drop()`, `on_estimated_drop()`, `on_skew()`,
            `on_new_labels(5_000)`, `every("30d")`, or several of these joined by `|` (one is enough) and `&` (all at
            the same time). None: never after the first version.
        gate: What a candidate must prove; by default `beats_champion()`.
        learn: "batch": the model stays as it was fitted; or "online": it predicts first, then learns from each label as
            it arrives (needs `partial_fit`).
        cooldown: How long no repair begins after a promotion and, for causes of the same kind, after a refusal. It
            doubles with each refusal in a row. A schedule tries again after its period at the latest.
        settle: How long a repair waits after the data began to change, so that it can learn from labels since then. The
            label's wait is added.
        approval: How long a candidate that passed the gate waits for a person's approval, such as "2d". Then it is
            dropped, as if it had been refused. None: no approval is needed.
        rollout: The stages from the gate to full service, made with `rollout()`: a shadow, then growing shares of the
            requests. None: full service at once.
        fits_per_day: How many fits automation may make in 24 hours. When they are used up, a repair waits, and the
            ledger says so. Fits that a person asks for are counted, but always allowed. None: no limit.
        fits_per_week: A limit like `fits_per_day`, for seven days.
        degrade: What to answer if features or the model fail or are late, made with `degrade()`. None: such requests
            get an error.
        cache: A cache for scores of the version in service, made with `cache()`. It is for models that often get equal
            requests, and take much longer than a look-up (about a microsecond). None: no cache.
        owner: The team or person responsible for signals about this deployment. Alerts name the owner.

    Raises:
        Misuse: An argument has another type, such as retrain="30d"; `learn` is unknown, or is "online" with a cache; a
            slice of the gate does not exist, or its checks do not fit the model's metric; a limit of fits is not a
            whole number of at least 1; or `owner` is not text.
    """
    made = Deployment(
        model=model,
        retrain=Triggers() if retrain is None else triggers_of(retrain),
        gate=gate,
        learn=learn,
        cooldown_us=duration_us(cooldown),
        settle_us=duration_us(settle),
        fits_per_day=fits_per_day,
        fits_per_week=fits_per_week,
        approval_us=None if approval is None else duration_us(approval),
        rollout=rollout,
        degrade=degrade,
        cache=cache,
        owner=owner,
    )
    _check(made)
    collected = _collected.get()
    if collected is not None:
        collected.append(made)
    return made


def _check(made: Deployment) -> None:
    """Refuse parts of another type, rules that contradict each other, and a gate that names an unknown column."""
    model, gate, rollout = made.model, made.gate, made.rollout
    what, classes, online = f"deployment of {model.name!r}", len(model.label.classes), made.learn == "online"
    owner, budgets = made.owner, {"fits_per_day": made.fits_per_day, "fits_per_week": made.fits_per_week}
    for name, part, kind, form in (
        ("gate", gate, BeatsChampion, "tt.beats_champion()"),
        ("rollout", rollout, Rollout, 'tt.rollout(shadow="1d")'),
        ("degrade", made.degrade, Degradation, "tt.degrade(rule=0.0)"),
        ("cache", made.cache, Cache, "tt.cache()"),
    ):
        if not isinstance(part, kind) and (part is not None or name == "gate"):
            raise Misuse(f"{what}: {name}={part!r}. Give e.g. {form}, or leave {name} out.")
    wrong: tuple[tuple[bool, str], ...] = (
        (
            owner is not None and not (isinstance(owner, str) and owner.strip()),
            f'owner={owner!r}. Give a text such as "team pricing", or leave owner out.',
        ),
        *(
            (
                fits is not None and (isinstance(fits, bool) or not isinstance(fits, int) or fits < 1),
                f"{name}={fits!r} is not a number of fits. Give a whole number of 1 or more.",
            )
            for name, fits in budgets.items()
        ),
        (made.learn not in ("batch", "online"), f'learn={made.learn!r} is neither "batch" nor "online".'),
        (
            online and classes > 0,
            f'the label has {classes} classes, and learn="online" can predict only two classes or a number. Use '
            'learn="batch".',
        ),
        (
            online and model.task == "ranking",
            'learn="online" learns one label at a time, and a model that ranks needs all labels of a list at once. Use '
            'learn="batch".',
        ),
        (
            online and rollout is not None and rollout.shadow_us is not None,
            'learn="online" changes the model with each label, and a shadow can only compare models that do not '
            "change. Leave shadow= out of tt.rollout().",
        ),
        (
            (online or model.task == "ranking")
            and any(isinstance(one, OnEstimatedDrop) for one in made.retrain.singles()),
            "retrain: for a ranking, and for a model that learns online, no loss is estimated before labels come, so "
            "on_estimated_drop() would never begin a repair. Leave it out.",
        ),
        (online and made.cache is not None, 'the scores of learn="online" change with each label. Leave cache= out.'),
        (
            made.degrade is not None and made.degrade.rule is not None and classes > 0,
            f"degrade's rule gives one number, but the model has {classes} classes. Give version= or last_answer=.",
        ),
        (
            made.approval_us == 0
            or any(0 < us < 1_000 for us in (made.approval_us or 0, made.cooldown_us, made.settle_us)),
            'approval, cooldown or settle is no usable time. Give it with a unit, such as "2d", or leave approval out.',
        ),
    )
    for is_wrong, why in wrong:
        if is_wrong:
            raise Misuse(f"{what}: {why}")
    names = [one for one in gate.slices if isinstance(one, str)]
    if names:
        checked_slices(model.name, model.request, model.features, names)
    known = {**model.features.dtypes, **model.request.columns}
    for one in gate.slices:
        if isinstance(one, NamedSlice):
            one.of.dtype(known, f"{what}: slice {one.name!r}")
    if gate.calibration_error is not None and model.metric not in PROBABILITIES:
        raise Misuse(
            f"{what}: calibration_error={gate.calibration_error:g} needs probabilities of a class (metric log_loss or "
            f"brier), but the model's metric is {model.metric}. Leave calibration_error out"
            + ("." if model.task == "ranking" else ": `calibration` is checked for numbers too.")
        )
