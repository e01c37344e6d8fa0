"""Golden rows of imported models: rows with known scores. A model must repeat these scores before it is registered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Misuse, TrimtabError
from trimtab.core.hashing import bytes_hash
from trimtab.registry.transfer import standalone
from trimtab.store.regular_file import regular_file
from trimtab.training.fitting.artifact import encode_artifact, make_golden
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.fitting.score_checks import checked_scores

# the allowed difference: absolute for scores up to 1, and relative for larger ones. It allows for other machines,
# other library versions and single precision
_TOLERANCE = 1e-6


First: TypeAlias = "Callable[[Fitted, NDArray[np.float64]], None]"


class GoldenRows(msgspec.Struct, frozen=True, eq=False):
    """Rows of a model's inputs, with the scores that the model must give."""

    rows: list[dict[str, Any]]
    scores: NDArray[np.float64]
    tolerance: float = _TOLERANCE


def golden_of(path: Path) -> GoldenRows | None:
    """Return the golden rows of a folder that trimtab exported; None if it has none."""
    file = path / "golden.json"
    if not path.is_dir() or not file.is_file():
        return None
    found = standalone.read_document(file)
    return GoldenRows(found["rows"], np.array(found["scores"], np.float64), max(found["tolerance"], _TOLERANCE))


def read_golden(file: Path, *, classes: Sequence[str] = ()) -> GoldenRows:
    """Read golden rows from a golden.json, or from a file of JSON lines, each with the inputs and the "score" of a row.

    For a model of several classes, "score" is a list.

    Raises:
        NotFound: There is no such file.
        Misuse: The file has no rows or cannot be parsed, or a row has no score or too many.
    """
    what, lacks, form = f"golden rows {file.name}", "a row has", 'lines of {"input": 1.5, ..., "score": 0.25}'
    if file.suffix == ".json":
        lacks, form = "there is", '{"rows": [...], "scores": [...]}'
    try:
        text = regular_file(file, "golden rows").read_text("utf-8")
        if file.suffix == ".json":
            found = msgspec.json.decode(text, type=dict[str, Any])
            rows, scores = list(found["rows"]), list(found["scores"])
        else:
            rows = [msgspec.json.decode(line, type=dict[str, Any]) for line in text.splitlines() if line.strip()]
            scores = [row.pop("score") for row in rows]
        wanted = np.array(scores, np.float64)
    except TrimtabError:
        raise
    except KeyError as error:
        raise Misuse(f"{what}: {lacks} no {error}. Give {form}.") from None
    except (OSError, ValueError, TypeError) as error:
        raise Misuse(f"{what}: {error}. Give {form}.") from error
    if not rows or len(rows) != len(wanted) or wanted.shape[1:] != ((len(classes),) if classes else ()):
        needed = f"a list of {len(classes)} scores, one for each class" if classes else "one score"
        raise Misuse(f"{what}: found {len(rows)} rows and scores of shape {wanted.shape}. Each row needs {needed}.")
    return GoldenRows(rows, wanted)


def golden_matrix(fitted: Fitted, golden: GoldenRows, first: First) -> NDArray[np.float64]:
    """Return golden rows as a matrix, after a check that the model repeats their scores.

    Args:
        first: Scores the rows in a child process before this process does. (A damaged model may end its process.)

    Raises:
        Misuse: A row does not fit the inputs, or a score differs; the message names the row.
    """
    encoding = fitted.artifact.encoding
    kinds = [
        {
            "name": name,
            "type": "category" if name in encoding.vocabularies else dtype,
            "values": encoding.vocabularies.get(name, ()),
        }
        for name, dtype in encoding.dtypes.items()
    ]
    try:
        matrix: NDArray[np.float64] = standalone.Inputs(kinds).matrix(golden.rows)
    except standalone.ModelError as error:
        raise Misuse(f"golden rows: {error}") from None
    first(fitted, np.vstack([matrix, np.full((1, matrix.shape[1]), np.nan)]))
    found = _checked(fitted, matrix)
    away = np.abs(found - golden.scores) / np.maximum(1.0, np.abs(golden.scores))
    worst = away if away.ndim == 1 else away.max(axis=1)
    row = int(worst.argmax())
    if not worst[row] <= golden.tolerance:
        raise Misuse(
            f"golden row {row}: the model gives {found[row]}, needed {golden.scores[row]} (allowed difference "
            f"{golden.tolerance:g}). Check whether this is another model, or whether the order of the inputs or the "
            "integer codes of a category's values differ."
        )
    return matrix


def with_golden(fitted: Fitted, matrix: NDArray[np.float64]) -> Fitted:
    """Return the model with golden predictions for these rows and with a row tolerance, so that it can be registered.

    The row tolerance is the largest difference between the scores of a row alone and in a batch, over the last 200 rows
    (one of them a row of nulls).

    Raises:
        Misuse: The model gives invalid scores for these rows, or for a row of nulls.
    """
    several = np.vstack([matrix, np.full((1, matrix.shape[1]), np.nan)])
    scores = _checked(fitted, several)
    alone = np.array([fitted.scorer.predict_row(row) for row in several[-200:].tolist()])
    tolerance = float(np.max(np.abs(alone - scores[-200:]), initial=0.0))
    artifact = msgspec.structs.replace(
        fitted.artifact,
        row_exact=fitted.artifact.row_exact and not tolerance,
        row_tolerance=tolerance,
        golden=make_golden(fitted.scorer, matrix),
    )
    data = encode_artifact(artifact)
    return msgspec.structs.replace(fitted, artifact=artifact, data=data, digest=bytes_hash(data))


def _checked(fitted: Fitted, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    artifact = fitted.artifact
    return checked_scores(fitted.model, artifact.task, fitted.scorer, matrix, classes=len(artifact.class_names))
