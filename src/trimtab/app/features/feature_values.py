"""Summarise recent values of a model's features, from logged predictions or, if they are few, the training set."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.app.system import System
from trimtab.core.columns.data import Column
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.shown import count_of
from trimtab.features.frames import REASONS
from trimtab.registry import Version
from trimtab.registry.protection import CHAMPION
from trimtab.training.data.sets import load_training_set
from trimtab.training.fitting.artifact import decode_artifact

_ROWS = 5_000  # a sample has at most this many rows; this many newest predictions of each log partition are searched
_ENOUGH = 100  # if fewer predictions of the version are found among these, the training set is used
_TOP = 5


class Values(msgspec.Struct, frozen=True, kw_only=True):
    """A summary of one feature's values in a sample of rows."""

    sample: str  # "the newest 5,000 predictions of late_flight@7"
    rows: int
    nulls: dict[str, float]  # the share of rows without a value, by reason
    mean: float | None = None  # this field and the next four are only for numbers
    std: float | None = None
    least: float | None = None
    quantiles: dict[str, float] = {}  # "5%", "25%", "50%", "75%", "95%"
    greatest: float | None = None
    top: dict[str, float] = {}  # only for categories: the most frequent values, each with its share of rows

    @property
    def null_share(self) -> float:
        return sum(self.nulls.values())

    def lines(self) -> list[str]:
        """Return the values as lines of text."""
        nulls = ", ".join(f"{share:.1%} {reason}" for reason, share in self.nulls.items()) or "none"
        out = [f"{count_of(self.rows, 'row')}: {self.sample}", f"null: {nulls}"]
        if self.mean is not None and self.least is not None and self.greatest is not None:
            spread = "" if self.std is None else f", std {self.std:.4g}"
            out.append(f"mean {self.mean:.4g}{spread}, from {self.least:.4g} to {self.greatest:.4g}")
            out.append("quantiles " + ", ".join(f"{name} {value:.4g}" for name, value in self.quantiles.items()))
        out += (
            ["most often " + ", ".join(f"{text} {share:.1%}" for text, share in self.top.items())] if self.top else []
        )
        return out


class Sample(msgspec.Struct, frozen=True, eq=False):
    """A sample of rows with all features of one version, as columns."""

    model: str  # "late_flight@7"
    what: str
    values: dict[str, Column]
    reasons: dict[str, NDArray[Any]]  # by feature, for each row the code that says why the value is missing


def sample_of(system: System, model: str) -> Sample | None:
    """Return recent predictions of a model's version in service or, if these are few, rows of its training set.

    If no version is in service, the newest registered version is taken.
    """
    version = system.registry.alias(model, CHAMPION) or next(reversed(system.registry.versions(model)), None)
    if version is None:
        return None
    return _of_predictions(system, version) or _of_training_set(system, version)


def values_of(sample: Sample, feature: str) -> Values | None:
    """Return the values of one feature; None if the version did not read it, or the sample is empty."""
    column = sample.values.get(feature)
    if column is None or not len(column):
        return None
    rows, there = len(column), column.present()
    if column.dtype == "float":
        there = there & ~np.isnan(column.values)
    nulls = _nulls(~there, sample.reasons.get(feature), rows)
    kept = column.values[there]
    if column.dtype == "str":
        counts = Counter(kept.tolist()).most_common(_TOP)
        return Values(sample=sample.what, rows=rows, nulls=nulls, top={text: n / rows for text, n in counts})
    if not len(kept):
        return Values(sample=sample.what, rows=rows, nulls=nulls)
    numbers = kept.astype(np.float64)
    levels = (5, 25, 50, 75, 95)
    return Values(
        sample=sample.what,
        rows=rows,
        nulls=nulls,
        mean=float(numbers.mean()),
        std=float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
        least=float(numbers.min()),
        quantiles={f"{q}%": float(v) for q, v in zip(levels, np.percentile(numbers, levels), strict=True)},
        greatest=float(numbers.max()),
    )


def _nulls(missing: NDArray[Any], reasons: NDArray[Any] | None, rows: int) -> dict[str, float]:
    if not missing.any():
        return {}
    if reasons is None:
        return {"null": float(missing.sum()) / rows}
    counts = Counter(reasons[missing].tolist())
    # a category that the version does not know is null, although it was found
    words = {code: reason.replace("found", "not seen in training") for code, reason in enumerate(REASONS)}
    return {words.get(code, "null"): n / rows for code, n in counts.most_common()}


def _of_predictions(system: System, version: Version) -> Sample | None:
    log = system.predictions
    after = {name: max(0, last - _ROWS) for name, last in log.log.positions().items()}
    blocks = log.blocks(after, model=version.model)
    newest = [p for block, _ in blocks for p in block if p.version == version.id][-_ROWS:]
    if len(newest) < _ENOUGH:
        return None
    encoding = decode_artifact(system.state.blob.get(version.artifact)).encoding
    width = len(encoding.names)
    matrix = np.frombuffer(b"".join(p.values for p in newest), "<f8").reshape(-1, width)
    codes = np.frombuffer(b"".join(p.reasons for p in newest), np.uint8).reshape(-1, width)
    values: dict[str, Column] = {}
    for place, name in enumerate(encoding.names):
        numbers = matrix[:, place]
        if name not in encoding.vocabularies:
            values[name] = Column("float", numbers)
            continue
        vocabulary = encoding.vocabularies[name]
        known = ~np.isnan(numbers)
        texts = [vocabulary[int(n)] if there else None for n, there in zip(numbers, known, strict=True)]
        values[name] = Column("str", np.array(texts, object), known)
    what = f"the newest {len(newest):,} predictions of {version.name}"
    return Sample(version.name, what, values, {name: codes[:, place] for place, name in enumerate(encoding.names)})


def _of_training_set(system: System, version: Version) -> Sample | None:
    try:
        key = system.live.of(version).request.key
        found = load_training_set(version.training_set, system.state.blob, key=key)
    except (NotFound, Misuse, Corrupt):  # the set belongs to a replay or is erased, or its definitions are unknown
        return None
    rows = slice(max(0, found.rows - _ROWS), found.rows)
    values = {name: column.take(rows) for name, column in found.features.values.by_name.items()}
    reasons = {name: codes[rows] for name, codes in found.features.reasons.items()}
    what = f"the newest {min(_ROWS, found.rows):,} rows that {version.name} was trained on"
    return Sample(version.name, what, values, reasons)
