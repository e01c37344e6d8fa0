"""Ten messy files with known truths: each assumption of `init` is right, or it is asked for; none is silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from messy import FILES, Truth

from trimtab.app.start.init.options import Options
from trimtab.app.start.init.scaffold import Scaffolded, scaffold
from trimtab.app.state.definitions import Definitions, load_definitions
from trimtab.core.errors import Misuse
from trimtab.core.expressions.by_columns import evaluate_columns
from trimtab.core.time import DAY_US
from trimtab.events.files.files import read_rows


@pytest.fixture(params=FILES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Truth]:
    path = tmp_path / f"{request.param}.csv"
    return path, FILES[request.param](path)


def made(path: Path, truth: Truth) -> tuple[Scaffolded, Definitions]:
    found = scaffold(path, path.parent / "made", Options(**truth.options))
    return found, load_definitions(found.folder / "project.py")


def test_what_a_file_does_not_tell_is_asked_for(case: tuple[Path, Truth], tmp_path: Path) -> None:
    path, truth = case
    options = {name: truth.options[name] for name in ("label",) if name in truth.options}
    if not truth.asks:
        pytest.skip("this file leaves nothing open")
    with pytest.raises(Misuse) as asked:
        scaffold(path, tmp_path / "made", Options(**options))
    assert [word for word in truth.asks if word not in str(asked.value)] == []
    assert not (tmp_path / "made").exists()


def test_each_assumption_is_right_and_said(case: tuple[Path, Truth]) -> None:
    path, truth = case
    if "never" in truth.options:
        pytest.skip("this file cannot be read")
    found, definitions = made(path, truth)
    columns = {c.name: c.dtype for c in found.profile.columns if c.dtype}
    (model,) = definitions.models.values()
    (request,) = definitions.requests.values()
    labels = model.label.source
    assert {name: columns[name] for name in truth.dtypes if name != "ts"} == {
        name: dtype for name, dtype in truth.dtypes.items() if name != "ts"
    }
    assert request.time == labels.time == truth.time
    assert (request.source.reading.key_of or (request.key,)) == truth.key
    assert truth.label in labels.columns
    assert (found.profile.rows, found.profile.duplicates) == (truth.rows, truth.duplicates)
    assert labels.reading.known_at == truth.known_at
    waited = model.label.wait_us // DAY_US
    assert waited == 1 if truth.wait_days is None else 0 <= waited - truth.wait_days <= 1
    assert labels.delay_us == model.label.wait_us
    assert labels.reading.only_final == (truth.wait_days is not None)
    text = "\n".join(found.profile.oddities)
    assert [word for word in truth.odd if word not in text] == []
    said = {one.role for one in found.assumed}
    decided = {"time", "label", "key", "positive", "wait"} - truth.options.keys()
    assert decided - said <= (set() if truth.duplicates or truth.positives is not None else {"positive"})
    assert all(one.option.startswith("--") for one in found.assumed)


def test_the_sources_read_the_file_as_it_is_meant(case: tuple[Path, Truth]) -> None:
    path, truth = case
    if "never" in truth.options:
        pytest.skip("this file cannot be read")
    _, definitions = made(path, truth)
    (model,) = definitions.models.values()
    (request,) = definitions.requests.values()
    questions = read_rows(path, request.source, on_error="quarantine")
    labels = read_rows(path, model.label.source, on_error="quarantine")
    assert questions.counted == labels.counted == truth.rows
    assert len(questions.bad) <= 1
    keys = labels.columns[request.key].to_list()
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    rows = sorted(first.values())
    known = evaluate_columns(model.label.value, labels.columns, "label").to_list()
    if truth.positives is not None:
        corrected = len(keys) - len(first) - truth.duplicates
        ones = sum(known[row] is True or known[row] == 1 for row in rows)
        assert abs(ones - truth.positives) <= corrected
    table: Any = questions.columns.by_name | labels.columns.by_name
    asked = questions.columns[request.key].to_list()
    firsts = sorted({key: row for row, key in reversed(list(enumerate(asked)))}.values())
    for name, total in truth.sums.items():
        values = table[name].to_list()
        assert sum(values[row] or 0 for row in firsts) == pytest.approx(total)
    for name, count in truth.nulls.items():
        values = questions.columns[name].to_list()
        assert sum(values[row] is None for row in firsts) == count
    assert min(questions.columns[truth.time].to_list()) == truth.start_us


def test_ten_files() -> None:
    assert len(FILES) == 10
