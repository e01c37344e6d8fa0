"""Explain a prediction: its features, and its version with training set, tests and promotion."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trimtab.app.data.logged_requests import request_shape
from trimtab.app.state.retention_needs import labels_from_us
from trimtab.app.state.state import kept_from
from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Corrupt, Misuse, NotFound, Unavailable
from trimtab.core.records import LAST_ANSWER, RULE, Decision, GateRecord, Prediction
from trimtab.core.shown import Shown, count_of
from trimtab.core.time import format_time
from trimtab.features.frames import NO_VIEW, REASONS
from trimtab.features.labels import LABEL_STATES, find_labels
from trimtab.features.offline.evaluation import evaluate
from trimtab.registry.protection import CHAMPION
from trimtab.serving.arms.arms import SHADOW
from trimtab.steering.ledger import Ledger
from trimtab.training.fitting.artifact import Artifact, decode_artifact, scorer_for
from trimtab.training.fitting.contributions import contributions

if TYPE_CHECKING:
    from trimtab.app.system import System
    from trimtab.registry import Version

_NEAR = 1e-6  # a recomputed score counts as equal to the logged score up to this relative difference


class Input(msgspec.Struct, frozen=True):
    """One input that the model used."""

    feature: str
    value: float | None
    reason: str | None  # "found", or why the value is null; None if the input does not come from a view
    text: str | None = None  # for a category: its text; `value` is the text's index in the version's vocabulary
    unseen: bool = False  # whether `value` is None because the text did not occur in training


class Share(msgspec.Struct, frozen=True):
    """The contribution of one feature to a raw score."""

    feature: str
    added: float


class Shares(msgspec.Struct, frozen=True):
    """SHAP values of a raw score: the log odds of a class, a predicted number, or the log of a predicted count."""

    base: float  # the mean raw score, to which the shares are added
    raw: float  # the sum of the base and all shares, before any calibration
    shares: tuple[Share, ...]  # the largest share first
    of: str | None = None  # the class that the raw score belongs to, for a model of several classes


class Explanation(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """Everything that led to one prediction."""

    prediction: str
    request_id: str
    request: dict[str, Any]
    request_note: str | None  # if the names of the request's columns are unknown, the reason
    model: str
    version: str  # "late_flight@7"
    address: str
    mode: str
    arm: str  # "champion", "canary" or "shadow" (whose answers are only logged); "online": it learns from each label
    flags: tuple[str, ...]
    score: float  # the score; with several classes, that of the most likely class
    made_at: str
    as_of: str
    positions: dict[str, int]
    inputs: list[Input]
    shares: Shares | None  # None: `no_shares` says why
    no_shares: str | None
    trained_until: str
    training_rows: int
    training_set: str
    gate: GateRecord | None
    promoted: Decision | None
    label: float | str | None  # with several classes, the true class
    label_state: str
    answer: str | None = None  # the most likely class, for a model of several classes
    scores: dict[str, float] | None = None  # the probability of each class, in declared order
    imported: str | None = None  # the file from which the version was imported; None: it was trained here

    def lines(self) -> list[str]:
        """The explanation as lines of text."""
        positions = ", ".join(f"{name} at {at}" for name, at in sorted(self.positions.items()))
        as_arm = "" if self.arm in (CHAMPION, "online") else f", as the {self.arm}"
        as_arm += " (only for the log: the client got another version's answer)" * (self.arm == SHADOW)
        out = [
            f"{self.prediction}: {self.model} answered {self._answer()} to {self.request_id}{as_arm}",
            f"  made {self.made_at[:19]} as of {self.as_of}, mode {self.mode}"
            + (f", events up to log position {positions}" if positions else "")
            + (f", flags {', '.join(self.flags)}" if self.flags else ""),
            "  request " + ", ".join(f"{name}={value}" for name, value in self.request.items()),
            *([f"  {self.request_note}"] if self.request_note else []),
            f"  by {self.version} ({self.address[:12]}), "
            + (
                f"imported from {self.imported}; its training data may reach up to {self.trained_until}"
                if self.imported
                else f"trained on {count_of(self.training_rows, 'label')} known at {self.trained_until}"
            ),
        ]
        out += [f"  gate {self.gate.id}: {self.gate.reason}"] if self.gate else ["  no gate record"]
        if self.promoted:
            when, row = format_time(self.promoted.at_us)[:19], self.promoted.sequence
            out.append(f"  promoted {when}: {self.promoted.cause} (ledger row {row})")
        truth = f"{self.label:g}" if isinstance(self.label, float) else self.label
        out.append(f"  label: {self.label_state}" + ("" if truth is None else f", {truth}"))
        width = max((len(one.feature) for one in self.inputs), default=0)
        for one in self.inputs:
            number = "null" if one.value is None else f"{one.value:.6g}"
            remark = "" if one.reason in (None, "found") else f"  ({one.reason})"
            remark = "  (unseen in training)" if one.unseen else remark
            out.append(f"    {one.feature:{width}}  {number if one.text is None else one.text or repr('')}{remark}")
        if self.shares is None:
            return [*out, f"  no contributions: {self.no_shares}"]
        of = "" if self.shares.of is None else f" of {self.shares.of}"
        base = f"{self.shares.base:.4g} for an average row, plus for this row:"
        out.append(f"  raw score{of} {self.shares.raw:.4g} = {base}")
        out += [f"    {one.added:+.4f}  {one.feature}" for one in self.shares.shares]
        return out

    def _answer(self) -> str:
        if self.scores is None:
            return f"{self.score:.4f}"
        return f"{self.answer} ({', '.join(f'{name} {score:.4f}' for name, score in self.scores.items())})"


def explain(system: System, prediction_id: str) -> Explanation:
    """Explain a prediction by its id; see `Project.why`."""
    return explain_found(system, system.predictions.find(prediction_id))


def explain_found(system: System, prediction: Prediction) -> Explanation:
    """Explain a prediction that is already loaded."""
    version = system.registry.get(prediction.version)
    label, state = _truth(system, prediction)
    gates = system.registry.gates_of(version)
    promoted = [d for d in Ledger(system.state.catalog).rows() if d.act == "promote" and d.version == version.id]
    # a champion may answer just before its promotion is in the ledger; another arm was promoted later, or never
    before = [one for one in promoted if one.at_us <= prediction.made_at_us]
    promoted = before or promoted[: prediction.arm == CHAMPION]
    by = promoted[-1].evidence.get("gate") if promoted else None  # a later gate may have judged its candidate again
    artifact = decode_artifact(system.state.blob.get(version.artifact))
    names = artifact.inputs
    values = struct.unpack(f"<{len(prediction.values) // 8}d", prediction.values)
    if not len(values) == len(names) == len(prediction.reasons):
        raise Corrupt(
            f"prediction {prediction.id}: it has {len(values)} inputs, but its version {version.name} takes "
            f"{len(names)}. Restore the prediction log or the version's blob."
        )
    request, note = _request(system, prediction, version)
    shares, no_shares = _shares(artifact, values, prediction)
    return Explanation(
        prediction=prediction.id,
        request_id=prediction.request_id,
        request=request,
        request_note=note,
        model=prediction.model,
        version=version.name,
        address=version.id,
        mode=prediction.mode,
        arm=prediction.arm,
        flags=prediction.flags,
        score=prediction.score,
        made_at=format_time(prediction.made_at_us),
        as_of=format_time(prediction.at_us),
        positions=prediction.positions,
        inputs=_with_texts(
            [
                Input(name, None if value != value else value, None if code == NO_VIEW else REASONS[code])
                for name, value, code in zip(names, values, prediction.reasons, strict=True)
            ],
            artifact.encoding.vocabularies,
            dict if {LAST_ANSWER, RULE} & set(prediction.flags) else partial(_texts, system, prediction, version),
        ),
        shares=shares,
        no_shares=no_shares,
        trained_until=format_time(version.cut_us),
        training_rows=version.rows,
        imported=None if version.imported is None else version.imported.file,
        training_set=version.training_set,
        gate=next((one for one in reversed(gates) if by in (None, one.id)), None),
        promoted=promoted[-1] if promoted else None,
        label=label,
        label_state=state,
        answer=prediction.prediction,
        scores=prediction.scores,
    )


def _shares(artifact: Artifact, values: Sequence[float], prediction: Prediction) -> tuple[Shares | None, str | None]:
    """Return the contribution of each feature to the score, or the reason why there are none."""
    if RULE in prediction.flags:
        return None, "the declared rule gave the answer, not the model"
    row, score = np.array([values], np.float64), prediction.score
    try:
        found = contributions(artifact, row)
        answers = scorer_for(artifact).predict(row)[0]
        off = abs(float(np.max(answers)) - score)
    except (Misuse, Unavailable) as error:  # the model has no SHAP values, or a library for them is missing
        return None, str(error)
    if not off <= _NEAR * max(1.0, abs(score)):
        return (
            None,
            f"the stored version's score differs by {off:.3g} from the logged one: an online learner has learnt since, "
            "or the prediction was made on another kind of machine",
        )
    of, values_of, base, raw = None, found.values[0], found.base[0], found.raw[0]
    if found.classes:  # a model of two classes has a raw score for the second class only
        likeliest = artifact.class_names[int(np.argmax(answers))]
        of = likeliest if likeliest in found.classes else found.classes[-1]
        place = found.classes.index(of)
        values_of, base, raw = values_of[:, place], base[place], raw[place]
    added = zip(found.names, values_of.tolist(), strict=True)
    shares = sorted((Share(name, value) for name, value in added), key=lambda one: -abs(one.added))
    return Shares(float(base), float(raw), tuple(shares), of), None


def _with_texts(
    inputs: list[Input], vocabularies: Mapping[str, Sequence[str]], computed: Callable[[], Mapping[str, str | None]]
) -> list[Input]:
    """Add the texts of categories to the inputs: from the version's vocabulary, or if unseen there, from `computed`."""
    out = []
    texts: Mapping[str, str | None] | None = None
    for one in inputs:
        if one.feature not in vocabularies or one.reason not in (None, "found"):
            out.append(one)
        elif one.value is not None:
            out.append(msgspec.structs.replace(one, text=vocabularies[one.feature][int(one.value)]))
        else:
            texts = computed() if texts is None else texts
            text = texts.get(one.feature)
            # the prediction had null, so its text was not in the vocabulary: if the computed text is in it, the history
            # has changed since, and the text is not shown
            seen = text in vocabularies[one.feature]
            unseen = one.reason == "found" or (text is not None and not seen)
            out.append(msgspec.structs.replace(one, text=None if seen else text, unseen=unseen))
    return out


def _texts(system: System, prediction: Prediction, version: Version) -> dict[str, str | None]:
    """Compute the text features of a prediction again, from the records that it used; nothing if this is impossible."""
    try:
        features = system.live.of(version)
        if not request_shape(features.request)(prediction.request):
            return {}
        row = msgspec.msgpack.decode(prediction.request)
        columns = features.request.columns
        request = Columns.of({n: (t, [v]) for (n, t), v in zip(columns.items(), row, strict=True)})
        frames = system.views.snapshot(prediction.positions)[0] if features.views else {}
        found = evaluate(features, request, np.array([prediction.at_us]), frames).values
    except (Misuse, NotFound, Corrupt):  # the definitions or the history are gone
        return {}
    return {name: column.to_list()[0] for name, column in found.by_name.items() if column.dtype == "str"}


def _request(system: System, prediction: Prediction, version: Version) -> tuple[dict[str, Any], str | None]:
    """Return the request by column name. If the names are unknown, number its columns, and return the reason, too."""
    row = msgspec.msgpack.decode(prediction.request)
    try:
        declared = system.live.of(version).request
        fits, why = request_shape(declared)(prediction.request), f"{version.name} takes {', '.join(declared.columns)}"
    except Misuse as error:
        fits, why = False, str(error)
    if fits:
        return {
            name: format_time(value) if dtype == "time" and value is not None else value
            for (name, dtype), value in zip(declared.columns.items(), row, strict=True)
        }, None
    note = f"its columns are numbered, because their names at that time are not known ({why})"
    return {str(place): value for place, value in enumerate(row, 1)}, note


def _truth(system: System, prediction: Prediction) -> tuple[float | str | None, str]:
    model = system.definitions.models.get(prediction.model)
    if model is None:
        return None, "unknown, the model is no longer declared"
    if model.request.key_dtype == "int" and not prediction.request_id.removeprefix("-").isdecimal():
        return None, "unknown, requests had keys of another type"
    if prediction.at_us < labels_from_us(model, kept_from(system.state.catalog)):
        return None, "unknown, the label events of its time are no longer kept"
    key = int(prediction.request_id) if model.request.key_dtype == "int" else prediction.request_id
    events = system.events_with(system.definitions.sources[model.label.source.name], model.label.key, [key])
    keys = column(model.request.key_dtype, [key])
    found = find_labels(model.label, events, keys, np.array([prediction.at_us]), system.clock.now_us())
    state = LABEL_STATES[int(found.state[0])]
    if state in ("pending", "missing", "unlisted"):
        return None, state
    value = float(found.values[0])
    return (model.label.class_names[int(value)] if model.label.classes else value), state
