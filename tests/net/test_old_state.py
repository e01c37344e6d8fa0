"""A state folder of today's code, read and gone on with by the code at hand."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from old_project import ARCHIVE, END_US, ENVIRONMENT, HERE, T0_US, move, open_at, unpacked, visits
from snapshots import check
from write_state import load_history

import trimtab as tt
from trimtab.app.training.loops import Loops
from trimtab.cli.group import trimtab
from trimtab.core.clock import VirtualClock
from trimtab.core.hashing import bytes_hash
from trimtab.core.time import DAY_US, HOUR_US
from trimtab.features.online.read.entity_read import read_entity
from trimtab.registry.versions import id_of
from trimtab.training.data.parquet import columns_hash
from trimtab.training.data.sets import load_manifest, load_training_set
from trimtab.training.environment import current_environment
from trimtab.training.fitting.artifact import decode_artifact, encode_artifact

pytestmark = pytest.mark.fast
EXACT = ("sale", "amount", "channel")  # trees: no bit of a score depends on a processor
KEYS = ("north", "south", "east")  # of online features; the last is of no event
TRAINED_LAST = "amount"  # at the very time when the state was packed


def plain(value: Any) -> Any:
    """A value as JSON that loses no bit: floats in hexadecimal, bytes by their hash."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, bytes):
        return bytes_hash(value)
    return None if value is msgspec.UNSET else value


def predictions(project: tt.Project) -> list[Any]:
    """Every logged prediction, by its id."""
    return sorted((one for block in project.predictions.scan() for one in block), key=lambda one: one.id)


def some_predictions(project: tt.Project) -> list[Any]:
    """The newest one of each model, arm and mode."""
    return list({(one.model, one.arm, one.mode): one for one in predictions(project) if one.model in EXACT}.values())


def explained(why: Any) -> dict[str, Any]:
    """All of an explanation but the words for which there is nothing to show."""
    return {name: value for name, value in plain(why).items() if name not in ("no_shares", "request_note")}


def stored(project: tt.Project) -> dict[str, Any]:
    """What the state says without anything being computed anew."""
    registry, blob = project.registry, project.state.blob
    versions = [version for model in registry.models() for version in registry.versions(model)]
    return {
        "ledger": [f"{d.sequence} {d.model} {d.act} by {d.actor} {d.hash}" for d in project.ledger()],
        "versions": {version.name: plain(version) for version in versions},
        "artifacts": {v.name: bytes_hash(encode_artifact(decode_artifact(blob.get(v.artifact)))) for v in versions},
        "training sets": {v.name: plain(load_manifest(v.training_set, blob)) for v in versions},
        "evaluations": {v.name: plain(project.evaluation(v.name).value) for v in versions},
        "gates": {v.name: [f"{g.id}: {g.reason}" for g in registry.gates_of(v)] for v in versions},
        "tags": {v.name: plain([registry.tags(v), registry.notes(v)]) for v in versions},
        "aliases": {
            f"{model} {alias}": [plain(move) for move in registry.history(model, alias)]
            for model in registry.models()
            for alias in ("champion", "canary", "shadow")
        },
        "needs": {model: registry.needs(model) for model in registry.models()},
        "predictions": {
            p.id: f"{p.model} {p.version[:8]} {p.arm} {p.mode} of {p.request_id} at {p.at_us}: {plain(p.score)} "
            f"{plain(p.scores)} {','.join(p.flags)} values {bytes_hash(p.values)[:16]} {bytes_hash(p.reasons)[:16]}"
            for p in predictions(project)
        },
        "why": {one.id: explained(project.why(one.id)) for one in some_predictions(project)},
        "quality": {
            f"{model} by {by}": [plain(list(row.values())) for row in project.quality(model, by=by).to_rows()]
            for model in registry.models()
            for by in ("hour", "day", "batch")
        },
        "slices": plain(project.quality("sale", slices="site").to_rows()),
        "signals": plain(project.signals()),
        "exclusions": plain(project.exclusions("sale")),
        "quarantined": plain(project.quarantined()),
        "runs": [
            f"{run.id} {run.kind} {run.model} {run.state} on {run.holder}: {run.outcome}" for run in project.runs()
        ],
        "skew": plain(project.skew_checks()),
        "keys": plain(project.keys.all()),
        "mutes": plain(project.alerts().mutes),
        "definitions": {
            f"{record.key}": bytes_hash(record.body) for record in project.state.catalog.find("definition")
        },
    }


def computed(project: tt.Project) -> dict[str, Any]:
    """What the code at hand makes of the state: features, answers, tables."""
    views, online = list(project.definitions.views.values()), project.state.online
    asked = visits("again", END_US, END_US, 6)
    before = {key: plain(read_entity(online, views, [key], END_US)) for key in KEYS}  # as the state was left
    answers = {model: project.predict(model, asked) for model in EXACT}
    return {
        "online features": before,
        "online features, caught up": {key: plain(read_entity(online, views, [key], END_US)) for key in KEYS},
        "offline features": columns_hash(project.join(asked, ["site", "shop"], at="at")),
        "answers": {
            model: [f"{a.request_id}: {plain(a.score)} {plain(a.scores)} {a.arm} {a.reasons}" for a in given]
            for model, given in answers.items()
        },
        "stages": {
            name: [plain([stage.name, stage.state, stage.since_us, stage.until_us]) for stage in project.stages(name)]
            for name in project.definitions.deployments
        },
    }


def current() -> str:
    """Both of the stored project, as JSON."""
    with TemporaryDirectory() as folder, open_at(unpacked(Path(folder))) as project:
        found = {**stored(project), **computed(project)}
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {_lines(value)}" for name, value in found.items()) + "\n}\n"


def _lines(section: Any) -> str:
    """A list or a dict as JSON with one line for each entry."""
    entries = [json.dumps(one, ensure_ascii=False) for one in (section if isinstance(section, list) else ())]
    if isinstance(section, dict):
        entries = [f"{json.dumps(key)}: {json.dumps(one, ensure_ascii=False)}" for key, one in section.items()]
    elif not isinstance(section, list):
        return json.dumps(section)
    begin, end = "{}" if isinstance(section, dict) else "[]"
    return begin + "\n " + ",\n ".join(entries) + "\n" + end if entries else begin + end


@pytest.fixture
def project(tmp_path: Path) -> Iterator[tt.Project]:
    with open_at(unpacked(tmp_path)) as opened:
        yield opened


def test_what_was_stored_is_read_and_computed_as_before() -> None:
    check("old_state", current())


def test_the_archive_holds_the_definitions_that_stand_beside_it() -> None:
    with tarfile.open(ARCHIVE) as archive:
        member = archive.extractfile("project.py")
        assert member is not None
        assert member.read() == (HERE / "state_project.py").read_bytes()
    assert ARCHIVE.stat().st_size < 200_000


def test_the_ledger_verifies_and_nothing_is_to_apply(project: tt.Project) -> None:
    assert project.verify_ledger() == len(project.ledger()) > 20
    plan = project.plan()
    assert (plan.changed, plan.refused) == ([], [])
    # how a model is fitted and judged was not recorded then
    assert [(one.name, one.notes) for one in plan.changes if one.notes] == [("sale", ["slices none -> site"])]


@pytest.fixture
def live_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests as they were counted when the state was written: rows of batches were not learnt from."""
    monkeypatch.setattr("trimtab.app.data.logged_requests.is_in_time", lambda prediction: False)


def test_rows_of_batches_are_learnt_from_now(project: tt.Project) -> None:
    made = (
        project.part(Loops)
        .living_data()
        .training_set(project.definitions.models["amount"], cut_us=project.clock.now_us())
    )
    keys = made.requests["visit_id"].to_list()
    assert any(key.startswith("b") for key in keys)
    assert any(key.startswith("pre") for key in keys)


@pytest.mark.usefixtures("live_only")
def test_training_sets_are_read_and_made_again(project: tt.Project) -> None:
    """Those that are stored have the values of their manifests, and the logs give the same ones once more."""
    for name in project.definitions.deployments:
        model = project.definitions.models[name]
        for version in project.registry.versions(name):
            there = load_training_set(version.training_set, project.state.blob, key="visit_id")
            made = project.part(Loops).living_data().training_set(model, cut_us=version.cut_us)
            assert made.manifest.data_hash == there.manifest.data_hash, version.name


def test_the_same_training_gives_the_version_that_is_stored(project: tt.Project, tmp_path: Path) -> None:
    """From the same events, in a state of its own, so that no result of a step is there already.

    An address holds that of the training set's Parquet file, whose bytes are DuckDB's, and the version of scikit-learn:
    the first is taken from the stored version, with another one of the second nothing can be compared.
    """
    first = project.registry.get("sale@1")
    there, here = first.environment.packages["sklearn"], current_environment().packages["sklearn"]
    if there != here:
        pytest.skip(f"fitted by scikit-learn {there}, here is {here}, and its version is part of the address")
    with tt.open(tmp_path, clock=VirtualClock(T0_US), state=tmp_path / "own", environment=ENVIRONMENT) as anew:
        load_history(anew)
        assert anew.train("sale")[-1].act == "promote"
        for name in ("sale@1", "sale@2"):
            before, now = project.registry.get(name), anew.registry.get(name)
            manifests = [load_manifest(v.training_set, p.state.blob) for v, p in ((before, project), (now, anew))]
            assert manifests[0].data_hash == manifests[1].data_hash
            assert id_of(msgspec.structs.replace(now, training_set=before.training_set)) == before.id


@pytest.mark.usefixtures("live_only")
def test_nothing_is_decided_where_nothing_changed(project: tt.Project) -> None:
    version = project.registry.alias(TRAINED_LAST, "champion")
    assert version is not None
    before = len(project.ledger())
    runs = {run.id for run in project.runs(TRAINED_LAST)}
    assert project.train(TRAINED_LAST) == []
    assert len(project.ledger()) == before
    (outcome,) = [run.outcome for run in project.runs(TRAINED_LAST) if run.id not in runs]
    assert outcome.startswith(f"Unchanged: {version.name} is")


def test_answers_are_explained_by_the_version_that_gave_them(project: tt.Project) -> None:
    some = some_predictions(project)
    assert {one.mode for one in some} == {"live", "batch", "precomputed"}
    for one in some:
        why = project.why(one.id)
        assert (why.score, why.address) == (one.score, one.version)
        assert one.id in why.lines()[0]


def test_no_stored_answer_is_skewed(project: tt.Project) -> None:
    for name in EXACT:
        report = project.skew(name, sample=None, seed=2)
        assert (report.mismatches, report.is_red) == (0, False)
        assert report.rows > 20


def test_the_backup_is_restored(tmp_path: Path) -> None:
    folder = unpacked(tmp_path)
    done = CliRunner(env=ENVIRONMENT).invoke(
        trimtab, ["storage", "restore", str(folder / "backup"), "--project", str(folder)]
    )
    assert done.exit_code == 4, done.output  # there is state
    arguments = ["storage", "restore", str(folder / "backup"), "--force", "--project", str(folder)]
    done = CliRunner(env=ENVIRONMENT).invoke(trimtab, arguments)
    assert done.exit_code == 0, done.output
    with open_at(folder) as project:
        assert project.verify_ledger() > 20
        assert project.predict("sale", visits("again", END_US, END_US, 1))


def test_the_project_goes_on(project: tt.Project) -> None:
    """Events come, requests are answered, labels close days, a version is trained and takes over."""
    before = {name: len(project.quality(name).to_rows()) for name in EXACT}
    answered = []
    for day in range(9):
        now_us = project.clock.now_us()
        asked = visits(f"on{day}", now_us, now_us, 8)
        project.push(
            "readings", [{"site": s, "level": day / 8, "state": "ok", "read_at": now_us} for s in ("north", "south")]
        )
        answered += [answer for name in EXACT for answer in project.predict(name, asked)]
        move(project, HOUR_US)
        project.push(
            "sales",
            [
                {
                    "visit_id": one["visit_id"],
                    "site": one["site"],
                    "bought": one["x"] > 0,
                    "amount": 8.0 * one["pages"],
                    "channel": "web",
                    "closed_at": project.clock.now_us(),
                }
                for one in asked
            ],
        )
        project.teacher("learner").teach()
        project.tick()
        move(project, DAY_US - HOUR_US)
    assert len({answer.id for answer in answered}) == 9 * 8 * 3
    for name in EXACT:
        assert len(project.quality(name).to_rows()) > before[name] + 5
    newest = project.registry.versions("channel")[-1].number
    assert [decision.act for decision in project.train("channel")][:2] == ["train", "gate"]
    assert project.registry.versions("channel")[-1].number > newest
    assert project.materialise().rows["readings"] == 18
    assert project.verify_ledger() == len(project.ledger())
    assert project.why(answered[-1].id).label_state
