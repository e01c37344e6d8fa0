"""Checks of scores: their shape and range, whether they are repeatable, and whether storing the model changes them."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.core.columns import Columns
from trimtab.core.errors import Misuse
from trimtab.stats.scores import OFF
from trimtab.training.definitions import Task
from trimtab.training.fitting.classes import Classes
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.runtimes.ports import Scorer

_OWN = str(Path(__file__).parents[2])  # the folder of trimtab's own code
_OF_PYTHON = (sysconfig.get_path("stdlib"), "<")  # "<": code without a file, such as "<string>"


def fitted_values(fitted: Fitted, values: Columns) -> NDArray[np.float64]:
    """Score feature values with a fitted model, and check the scores."""
    artifact = fitted.artifact
    return checked_scores(
        fitted.model, artifact.task, fitted.scorer, fitted.matrix(values), classes=len(artifact.class_names)
    )


def checked_scores(
    name: str, task: Task, scorer: Scorer, matrix: NDArray[Any], *, classes: int = 0
) -> NDArray[np.float64]:
    """Score rows, and check the scores: one finite number for each row, in the range that the task needs.

    With `classes` (the number of classes of a model of several classes), each row needs a probability of each class,
    and these must add up to 1.

    Raises:
        Misuse: The scores have another shape, or are not in this range.
    """
    with answering(name):
        scores = np.asarray(scorer.predict(matrix), np.float64)
    if scores.shape != ((len(matrix), classes) if classes else (len(matrix),)):
        needed = f"a probability of each of {classes} classes" if classes else "one number"
        raise Misuse(
            f"model {name!r}: found predictions of shape {scores.shape} for {len(matrix)} rows, needed {needed} for "
            "each row."
        )
    finite = np.isfinite(scores)
    bad = np.flatnonzero(~(finite.all(axis=1) if classes else finite))
    if bad.size:
        raise Misuse(f"model {name!r}: {bad.size} of {len(matrix)} predictions are not numbers, e.g. {scores[bad[0]]}.")
    if classes:
        outside = ((scores < 0.0) | (scores > 1.0)).any(axis=1)
        bad = np.flatnonzero(outside | (np.abs(scores.sum(axis=1) - 1.0) > OFF))
        if bad.size:
            raise Misuse(
                f"model {name!r}: {bad.size} of {len(matrix)} predictions are not probabilities that add up to 1, "
                f"e.g. {scores[bad[0]].tolist()}. Give the estimator predict_proba."
            )
    bad = np.flatnonzero((scores < 0.0) | (scores > 1.0)) if task == "binary" else bad
    if bad.size:
        raise Misuse(
            f"model {name!r}: {bad.size} of {len(matrix)} predictions lie outside [0, 1], e.g. {scores[bad[0]]:.4g}. "
            "Let the estimator's predict_proba return probabilities, or choose a metric for numbers."
        )
    if task == "count" and scores.min(initial=0.0) < 0.0:
        raise Misuse(
            f"model {name!r}: {int((scores < 0.0).sum())} of {len(matrix)} predictions are below 0, e.g. "
            f'{scores.min():.4g}. A count is needed: give the estimator a Poisson objective (objective="poisson").'
        )
    return scores


@contextmanager
def answering(name: str) -> Iterator[None]:
    """Convert errors that an estimator raises in the block into `Misuse`, with the name of the model."""
    try:
        yield
    except Misuse as error:  # the message already says what is missing
        raise Misuse(f"model {name!r}: {error}") from error
    except (Exception, SystemExit) as error:  # the user's estimator may raise any exception
        why = f"its prediction raised {type(error).__name__}: {error}{place_raised(error)}"
        raise Misuse(f"model {name!r}: {why}") from error


def check_parity(
    name: str,
    scores: NDArray[np.float64],
    estimator: Any,
    inputs: NDArray[Any],
    allowed: float,
    classes: Classes | None,
) -> None:
    """Refuse an estimator that scores differently after it was stored and loaded.

    Raises:
        Misuse: The scores differ by more than `allowed` (for scores above 1: relative to the score).
    """
    worst = _apart(_own_answers(estimator, inputs, classes), scores)
    if not worst <= allowed:
        raise Misuse(
            f"model {name!r}: the scores of {type(estimator).__name__} before and after storing differ by "
            f"{worst:.3g}. A custom objective or a wrapper was not stored: use a built-in objective."
        )


def check_repeats(name: str, estimator: Any, inputs: NDArray[Any], allowed: float, classes: Classes | None) -> None:
    """Refuse a user's estimator if it changes its input, or if it scores the same rows differently the second time."""
    given = inputs.copy()
    first = _own_answers(estimator, given, classes)
    if not np.array_equal(given, inputs, equal_nan=True):
        raise Misuse(
            f"model {name!r}: {type(estimator).__name__} changes the rows that it scores. Let its predict work on a "
            "copy of the rows."
        )
    worst = _apart(_own_answers(estimator, given, classes), first)
    if not worst <= allowed:
        raise Misuse(
            f"model {name!r}: {type(estimator).__name__} scores the same rows differently a second time, by up "
            f"to {worst:.3g}. Let it draw no random numbers in predict, and keep no state between calls."
        )


def _own_answers(estimator: Any, inputs: NDArray[Any], classes: Classes | None) -> NDArray[np.float64]:
    """Return the scores of an estimator as it was fitted, before it was stored."""
    if hasattr(estimator, "predict_proba"):
        own = np.asarray(estimator.predict_proba(inputs), np.float64)
        own = own[:, 1] if own.ndim == 2 and own.shape[1] == 2 else own
    else:
        own = np.asarray(estimator.predict(inputs), np.float64)
        own = own.reshape(-1) if classes is None else own
    return own if classes is None else classes.probabilities(own)


def _apart(own: NDArray[np.float64], scores: NDArray[np.float64]) -> float:
    """Return the largest difference between two arrays of scores (for scores above 1: relative to `own`)."""
    return float(np.max(np.abs(own - scores) / np.maximum(1.0, np.abs(own))))


def place_raised(error: BaseException) -> str:
    """Return where an error was raised, as the end of a message.

    This is the innermost line of the user's code, or else of a library.
    """
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not one.filename.startswith(_OWN)]
    of_user = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(_OF_PYTHON)]
    if not frames:
        return ""
    frame = (of_user or frames)[-1]
    return f", in {frame.name} at {Path(frame.filename).name}:{frame.lineno}"
