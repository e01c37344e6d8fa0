"""The trials of a parameter search: propose parameters, fit with them, and judge the result."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.hashing import content_hash
from trimtab.run.progress import listening
from trimtab.stats.metrics.lists import unit_losses
from trimtab.training.data.leakage import find_leaks, refuse_leaks
from trimtab.training.data.sets import TrainingSet
from trimtab.training.definitions import Model
from trimtab.training.fitting.fit import fit_unchecked, training_target
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.fitting.folds import Mask, walk
from trimtab.training.fitting.score_checks import fitted_values
from trimtab.training.search import Chosen, Number, Search, Space, Trial, Value, defaults, parameters_text

_FIRST = 0.5  # the share of the rows (the oldest) that are only learnt from; the others are predicted part by part
_MOST_FAILED = 5  # if this many trials fail before any succeeds, the search ends
_BEFORE_PRUNING = 5  # this many trials, the first ones, are never stopped early


class Proposal:
    """Proposes the parameters to try next.  # D72

    The proposals only depend on the search, its seed and the earlier trials. So a search gives the same result after an
    interruption.

    Args:
        first: The parameters of the first trial; None: they are drawn.

    Raises:
        Misuse: Optuna is not installed.
    """

    def __init__(self, search: Search, before: Sequence[Trial], *, first: dict[str, Value] | None = None) -> None:
        optuna = _optuna()
        seed = int(content_hash([search.seed, len(before)])[:8], 16)
        spaces = {name: _distribution(optuna, space) for name, space in search.spaces.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                sampler=optuna.samplers.TPESampler(seed=seed),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=_BEFORE_PRUNING)
                if search.prune
                else optuna.pruners.NopPruner(),
            )
            study.add_trials([_known(optuna, trial, spaces) for trial in before])
            if first is not None and not before:
                study.enqueue_trial(first)
            self._trial = study.ask(spaces)
        self.values: dict[str, Value] = {name: self._trial.params[name] for name in search.spaces}

    def is_prunable(self, fold: int, value: float) -> bool:
        """Return whether a trial may be stopped after part `fold`.

        It may if its mean loss up to this part (`value`) is above the median of those of earlier trials.
        """
        self._trial.report(value, fold)
        return bool(self._trial.should_prune())


def run_trials(
    model: Model,
    training_set: TrainingSet,
    among: Mask,
    before: Sequence[Trial] = (),
    *,
    seed: int = 0,
    threads: int = 1,
    keep: Callable[[Trial], object] = lambda trial: None,
    progress: Callable[[float], object] = lambda share: None,
    timer: Callable[[], float] = time.monotonic,
) -> list[Trial]:
    """Run trials until the declared number or time is used up. Return all trials, including earlier ones.

    Args:
        model: The model, with a declared `search`.
        among: The rows that trials may use, as a boolean array. The gate's rows are not among them.
        before: Earlier trials of the same search.
        keep: Called with each trial that has ended.
        progress: Called with the used share of the declared trials or time. It may raise an exception to end the
            search.
        timer: Returns the time of a clock in seconds.

    Raises:
        Misuse: There are too few rows or labels, the features leak the label, the first five trials fail (or all, if
            there are fewer), or Optuna is not installed.
    """
    search = model.search
    if search is None:
        raise Misuse(f'model {model.name!r} declares no search. Add search=tt.search({{"depth": tt.integer(3, 12)}}).')
    _optuna()
    chosen, _ = training_target(model, training_set, among)
    refuse_leaks(model, find_leaks(model, training_set, chosen))
    first = defaults(search, model.estimator)
    trials = list(before)
    while not _is_over(search, trials):
        if len(trials) >= _MOST_FAILED and all(trial.state == "failed" for trial in trials):
            raise Misuse(
                f"search of {model.name!r}: all {len(trials)} trials failed. The newest error: {trials[-1].error}"
            )
        progress(_used(search, trials, 0.0))
        proposal = Proposal(search, trials, first=first)
        trials.append(
            _run_trial(
                model,
                training_set,
                among,
                proposal,
                len(trials),
                lambda share: progress(_used(search, trials, share)),
                seed=seed,
                threads=threads,
                timer=timer,
            )
        )
        keep(trials[-1])
    if best_trial(trials) is None:
        raise Misuse(f"search of {model.name!r}: all {len(trials)} trials failed. The newest error: {trials[-1].error}")
    return trials


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the smallest metric, and of equal ones the earliest; None if no trial has succeeded."""
    done = [trial for trial in trials if trial.state == "done"]
    return min(done, key=lambda trial: (trial.value, trial.number)) if done else None


def with_parameters(model: Model, values: dict[str, Value]) -> Model:
    """Return the model with the given parameters."""
    return msgspec.structs.replace(model, chosen=Chosen(values=values, search="", trial=0, until_us=0))


def _run_trial(
    model: Model,
    training_set: TrainingSet,
    among: Mask,
    proposal: Proposal,
    number: int,
    progress: Callable[[float], object],
    *,
    seed: int,
    threads: int,
    timer: Callable[[], float],
) -> Trial:
    search = model.search
    assert search is not None  # the caller has checked this
    fixed, began_s = with_parameters(model, proposal.values), timer()
    finished = 0  # how many parts were predicted

    def fitted(rows: Mask) -> Fitted:
        with listening(lambda done, total: progress((finished + done / total) / search.folds)):
            return fit_unchecked(fixed, training_set, rows=rows, seed=seed, threads=threads)

    trial = Trial(number=number, values=proposal.values, state="done", value=None, folds=(), rows=(), took_s=0.0)
    try:
        for part in walk(
            fitted,
            fitted_values,
            training_set,
            among,
            folds=search.folds,
            first=_FIRST,
            what=f"trial {number} ({parameters_text(proposal.values)})",
        ):
            if part.rows.size:
                lists = training_set.lists_of(part.rows)
                losses, _ = unit_losses(model.metric, training_set.target[part.rows], part.scores, lists)
                if not losses.size:
                    raise Misuse(
                        f"fold {part.number + 1}: in each list all rows have the same relevance, so no order is better."
                    )
                folds, rows = (*trial.folds, float(losses.mean())), (*trial.rows, losses.size)
                trial = msgspec.structs.replace(trial, folds=folds, rows=rows)
                trial = msgspec.structs.replace(trial, value=trial.so_far[-1])
                if proposal.is_prunable(len(folds), trial.so_far[-1]) and part.number + 1 < search.folds:
                    trial = msgspec.structs.replace(trial, state="pruned")
                    break
            finished = part.number + 1
            progress(finished / search.folds)
    except (Misuse, Corrupt) as error:  # the estimator does not accept these parameters, or fails with them
        trial = msgspec.structs.replace(trial, state="failed", value=None, error=str(error))
    return msgspec.structs.replace(trial, took_s=timer() - began_s)


def _is_over(search: Search, trials: Sequence[Trial]) -> bool:
    took_us = sum(trial.took_s for trial in trials) * 1e6
    return len(trials) >= search.trials or (search.time_us is not None and took_us >= search.time_us)


def _used(search: Search, trials: Sequence[Trial], share: float) -> float:
    """Return the used share of the declared trials or, if larger, of the time.

    `share` is how much of the running trial is done.
    """
    took_us = sum(trial.took_s for trial in trials) * 1e6
    of_time = 0.0 if search.time_us is None else took_us / search.time_us
    return min(1.0, max(of_time, (len(trials) + share) / search.trials))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise Misuse(f'search: {error.name} is not installed. pip install "trimtab[search]"') from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _distribution(optuna: Any, space: Space) -> Any:
    kinds = optuna.distributions
    if isinstance(space, Number):
        return kinds.FloatDistribution(space.low, space.high, log=space.log)
    if hasattr(space, "options"):
        return kinds.CategoricalDistribution(space.options)
    return kinds.IntDistribution(space.low, space.high, log=space.log)


def _known(optuna: Any, trial: Trial, spaces: dict[str, Any]) -> Any:
    states = optuna.trial.TrialState
    state = {"done": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[trial.state]
    return optuna.trial.create_trial(
        state=state,
        value=trial.value,
        params=dict(trial.values),
        distributions=spaces,
        intermediate_values={} if trial.state == "failed" else dict(enumerate(trial.so_far, 1)),
    )
