"""Why a prediction is what it is: one id leads to features, version, training set, gate and decision."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from trimtab.app.retention_needs import labels_from_us
from trimtab.app.state import kept_from
from trimtab.app.training_data import request_shape
from trimtab.core.columns import Columns
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.core.records import Decision, GateRecord, Prediction
from trimtab.core.time import format_moment
from trimtab.features.frames import REASONS
from trimtab.features.labels import LABEL_STATES, LabelIndex
from trimtab.features.offline.evaluation import evaluate
from trimtab.serving.answering import NO_VIEW
from trimtab.training.artifact import decode_artifact

if TYPE_CHECKING:
    from trimtab.app.project import Project
    from trimtab.registry import Version


class Input(msgspec.Struct, frozen=True):
    """One model input that was used."""

    feature: str
    value: float | None
    reason: str | None  # None: computed from the request itself
    text: str | None = None  # of a category, whose `value` is its number in the version's vocabulary
    unseen: bool = False  # a text that training did not see, so that `value` is None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """All that led to one prediction."""

    prediction: str
    request_id: str
    request: dict[str, Any]
    request_note: str | None  # why its columns cannot be named
    model: str
    version: str  # "late_flight@7"
    address: str
    mode: str
    flags: tuple[str, ...]
    score: float
    made_at: str
    as_of: str
    positions: dict[str, int]
    inputs: list[Input]
    trained_until: str
    training_rows: int
    training_set: str
    gate: GateRecord | None
    promoted: Decision | None
    label: float | None
    label_state: str

    def lines(self) -> list[str]:
        """The same for people."""
        out = [
            f"{self.prediction}: {self.model} answered {self.score:.4f} to {self.request_id}",
            f"  made {self.made_at} as of {self.as_of} (log {_positions(self.positions)}), mode {self.mode}"
            + (f", flags {', '.join(self.flags)}" if self.flags else ""),
            "  asked " + ", ".join(f"{name}={value}" for name, value in self.request.items()),
            *([f"  {self.request_note}"] if self.request_note else []),
            f"  by {self.version} ({self.address[:12]}), trained on {self.training_rows:,} labels known at "
            f"{self.trained_until}",
        ]
        out += [f"  gate {self.gate.id}: {self.gate.reason}"] if self.gate else ["  no gate record"]
        if self.promoted:
            when, row = format_moment(self.promoted.at_us), self.promoted.sequence
            out.append(f"  promoted {when}: {self.promoted.cause} (ledger row {row})")
        out.append(f"  truth: {self.label_state}" + ("" if self.label is None else f", {self.label:g}"))
        width = max((len(one.feature) for one in self.inputs), default=0)
        for one in self.inputs:
            number = "null" if one.value is None else f"{one.value:.6g}"
            remark = "" if one.reason in (None, "found") else f"  ({one.reason})"
            remark = "  (unseen in training)" if one.unseen else remark
            out.append(f"    {one.feature:{width}}  {number if one.text is None else one.text or repr('')}{remark}")
        return out


def explain(project: Project, prediction_id: str) -> Explanation:
    """See `Project.why`."""
    prediction = project.predictions.find(prediction_id)
    version = project.registry.get(prediction.version)
    label, state = _truth(project, prediction)
    gates = project.registry.gates_of(version)
    promoted = [d for d in project.ledger() if d.act == "promote" and d.version == version.id]
    artifact = decode_artifact(project.state.blob.get(version.artifact))
    names = artifact.inputs
    values = struct.unpack(f"<{len(prediction.values) // 8}d", prediction.values)
    if not len(values) == len(names) == len(prediction.reasons):
        raise Corrupt(
            f"prediction {prediction_id}: it has {len(values)} inputs, its version {version.name} takes {len(names)}. "
            "Restore the prediction log or the version's blob."
        )
    request, note = _request(project, prediction, version)
    return Explanation(
        prediction=prediction.id,
        request_id=prediction.request_id,
        request=request,
        request_note=note,
        model=prediction.model,
        version=version.name,
        address=version.id,
        mode=prediction.mode,
        flags=prediction.flags,
        score=prediction.score,
        made_at=format_moment(prediction.made_at_us),
        as_of=format_moment(prediction.at_us),
        positions=prediction.positions,
        inputs=_with_texts(
            [
                Input(name, None if value != value else value, None if code == NO_VIEW else REASONS[code])
                for name, value, code in zip(names, values, prediction.reasons, strict=True)
            ],
            artifact.encoding.vocabularies,
            partial(_texts, project, prediction, version),
        ),
        trained_until=format_moment(version.cut_us),
        training_rows=version.rows,
        training_set=version.training_set,
        gate=gates[-1] if gates else None,
        promoted=promoted[-1] if promoted else None,
        label=label,
        label_state=state,
    )


def _with_texts(
    inputs: list[Input], vocabularies: Mapping[str, Sequence[str]], computed: Callable[[], Mapping[str, str | None]]
) -> list[Input]:
    """Inputs with the texts of their categories; `computed` is asked for those that have no number."""
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
            seen = text in vocabularies[one.feature]  # then another history gives another text than there was
            unseen = one.reason == "found" or (text is not None and not seen)
            out.append(msgspec.structs.replace(one, text=None if seen else text, unseen=unseen))
    return out


def _texts(project: Project, prediction: Prediction, version: Version) -> dict[str, str | None]:
    """The texts among a prediction's features, computed again as of its pair (t, P); none where that cannot be."""
    try:
        features = project.live.of(version)
        if not request_shape(features.request)(prediction.request):
            return {}
        row = msgspec.msgpack.decode(prediction.request)
        columns = features.request.columns
        asked = Columns.of({n: (t, [v]) for (n, t), v in zip(columns.items(), row, strict=True)})
        frames = project.views.snapshot(prediction.positions)[0] if features.views else {}
        found = evaluate(features, asked, np.array([prediction.at_us]), frames).values
    except (Misuse, NotFound, Corrupt):  # definitions or history of then are not there any more
        return {}
    return {name: column.to_list()[0] for name, column in found.by_name.items() if column.dtype == "str"}


def _request(project: Project, prediction: Prediction, version: Version) -> tuple[dict[str, Any], str | None]:
    """The request's columns by name, as its version knew them; by number where that cannot be said, with a remark."""
    row = msgspec.msgpack.decode(prediction.request)
    try:
        asked = project.live.of(version).request
        fits, why = request_shape(asked)(prediction.request), f"{version.name} takes {', '.join(asked.columns)}"
    except Misuse as error:
        fits, why = False, str(error)
    if fits:
        return {
            name: format_moment(value) if dtype == "time" and value is not None else value
            for (name, dtype), value in zip(asked.columns.items(), row, strict=True)
        }, None
    note = f"its columns are numbered: the request was declared otherwise when it was asked ({why})"
    return {str(place): value for place, value in enumerate(row, 1)}, note


def _truth(project: Project, prediction: Prediction) -> tuple[float | None, str]:
    model = project.definitions.models.get(prediction.model)
    if model is None:
        return None, "unknown, the model is not declared any more"
    if model.request.key_dtype == "int" and not prediction.request_id.removeprefix("-").isdecimal():
        return None, "unknown, requests had keys of another type"
    if prediction.at_us < labels_from_us(model, kept_from(project.state.catalog)):
        return None, "unknown, the label events of its time are not kept any more"
    project.history.refresh()
    index = LabelIndex(model.label)
    index.update(project.history.frame(model.label.source.name))
    key = int(prediction.request_id) if model.request.key_dtype == "int" else prediction.request_id
    found = index.join([key], np.array([prediction.at_us]), project.clock.now_us())
    state = LABEL_STATES[int(found.state[0])]
    return (None if state in ("pending", "missing") else float(found.values[0])), state


def _positions(positions: dict[str, int]) -> str:
    return ", ".join(f"{name} at {position}" for name, position in sorted(positions.items())) or "empty"
