"""Logged scores of a version: those that it gave to the very inputs, found against a brute force."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.training import fit
from trimtab.training.data.answers import LoggedAnswers
from trimtab.training.fitting.artifact import Artifact
from trimtab.training.fitting.classes import Classes

NAMES = ("a", "b", "c")
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 2**-52, math.nan, math.inf])


class Row(msgspec.Struct, frozen=True):
    version: str
    values: bytes
    answer: Any


@pytest.fixture(scope="module")
def artifact(world: Any) -> Artifact:
    training_set = world.training_set()
    return fit(world.model, training_set, rows=training_set.usable, seed=0).artifact


@given(st.data(), st.booleans())
def test_a_logged_score_counts_where_version_and_inputs_are_the_same(
    artifact: Artifact, data: st.DataObject, several: bool
) -> None:
    exact = {"row_exact": True, "row_tolerance": 0.0}
    classes = Classes(names=NAMES, fitted=(0, 1, 2), rows=9) if several else msgspec.UNSET
    artifact = msgspec.structs.replace(artifact, classes=classes, **exact)
    matrix = data.draw(st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=8))
    rows: list[Row | None] = []
    for line in matrix:
        logged = data.draw(st.one_of(st.just(line), st.lists(NUMBERS, min_size=1, max_size=3)))
        score = data.draw(st.floats(0, 1))
        answer = {name: score + place for place, name in enumerate(reversed(NAMES))} if several else score
        row = Row(
            data.draw(st.sampled_from("vw")),
            struct.pack(f"<{len(logged)}d", *logged),
            data.draw(st.sampled_from([answer, None])),
        )
        rows.append(data.draw(st.sampled_from([row, row, None])))
    answers = LoggedAnswers.of(rows)
    found = answers.scores_of("v", artifact, np.array(matrix, np.float64).reshape(-1, 2))
    assert found.shape == ((len(rows), 3) if several else (len(rows),))
    for row, line, scores in zip(rows, matrix, found, strict=True):
        if row is None or row.answer is None or row.version != "v" or not alike(row.values, line):
            assert np.isnan(scores).all()
        else:
            assert np.ravel(scores).tolist() == ([row.answer[name] for name in NAMES] if several else [row.answer])
    keep = np.array([n % 2 == 0 for n in range(len(rows))], bool)
    half = answers.take(keep).scores_of("v", artifact, np.array(matrix, np.float64).reshape(-1, 2)[keep])
    np.testing.assert_array_equal(half, found[keep])


def alike(values: bytes, line: list[float]) -> bool:
    """Number by number: as many, NaN like NaN, and 0.0 unlike -0.0."""
    logged = [number for (number,) in struct.iter_unpack("<d", values)]
    return [(repr(a), math.copysign(1, a)) for a in logged] == [(repr(b), math.copysign(1, b)) for b in line]


def test_of_a_version_whose_rows_alone_score_otherwise_nothing_is_taken_from_the_log(artifact: Artifact) -> None:
    answers = LoggedAnswers.of([Row("v", struct.pack("<2d", 1.0, 2.0), 0.25)])
    for tolerance, score in ((1e-12, 0.25), (1e-9, math.nan)):
        one = msgspec.structs.replace(artifact, row_exact=False, row_tolerance=tolerance)
        assert repr(answers.scores_of("v", one, np.array([[1.0, 2.0]])).tolist()) == repr([score])
