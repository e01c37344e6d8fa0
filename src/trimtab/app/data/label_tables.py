"""Append labels that are given one by one, or as a table with the ids of predictions."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from trimtab.app.data.given_labels import LabelEvents, MadeLabel
from trimtab.app.features.request_tables import read_loosely
from trimtab.app.system import System
from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.records import Prediction
from trimtab.core.shown import Shown
from trimtab.events.definitions import Source
from trimtab.events.files.files import Rows
from trimtab.events.values.conversions import Refused, of_text
from trimtab.serving.http.routes.operations import LabelRow
from trimtab.serving.log.prediction_ids import id_time_us

_NAMED = 100  # at most this many refused labels are described
_CHUNK = 20_000  # this many labels are appended at once
_FEW = 100  # fewer predictions than this are searched for one by one
_READ = 300  # in the time of one such search, about this many predictions can be read one after another
_TEXTS = 10  # for at most this many texts, the report says whether they count as true or false
_OWN = ("prediction", "value", "at")
# Names of the column with the ids of predictions. The first is preferred: in a frame with answers, `prediction` may be
# the predicted class. A file of answers has the ids in `id`, so this name counts, too, unless a label's source
# declares a column `id`.
_IDS = ("prediction_id", "prediction")


class RefusedLabel(Shown, msgspec.Struct, frozen=True):
    """A label that was not taken, and why."""

    place: str  # such as "line 7"
    prediction: str | None
    reason: str


class LabelsTaken(Shown, msgspec.Struct, frozen=True, kw_only=True):
    """The number of accepted labels, and the refused labels. Accepted labels are safe in the log."""

    accepted: int
    refused: int
    late: int  # accepted, but after the wait: they count for training, but not for closed days
    models: dict[str, int]  # the number of accepted labels by model
    problems: tuple[RefusedLabel, ...] = ()  # the first hundred refused labels
    ignored: tuple[str, ...] = ()  # columns that were not used for some rows, as the label's source lacks them
    counted_as: dict[str, str] = {}  # for the first ten texts that say whether an event happened: "true" or "false"


def label_prediction(system: System, row: LabelRow) -> LabelsTaken:
    """Append the label of one prediction; see `Project.label`."""
    found = system.predictions.find(str(row.prediction))
    made = LabelEvents(system, system.predictions.find).one(found.model, row, "label", found=found)
    source = system.definitions.deployment(found.model).model.label.source
    pushed = system.ingestor.push(source.name, [made.event])
    for problem in pushed.problems:
        raise Misuse(f"label: {problem.field} is {problem.reason} (found {problem.found}). It is in quarantine.")
    counted_as = {} if made.counts_as is None else {str(row.value): made.counts_as}
    return LabelsTaken(accepted=1, refused=0, late=int(made.late), models={found.model: 1}, counted_as=counted_as)


def label_table(system: System, given: Rows, progress: Callable[[int, int], object] | None) -> LabelsTaken:
    """Append a table of labels; see `Project.label_table`."""
    if given.__class__ is list and not given:
        return LabelsTaken(accepted=0, refused=0, late=0, models={})
    is_text = isinstance(given, str | Path) and bool({".csv", ".tsv"} & set(Path(given).suffixes))
    sources = [one.model.label.source for one in system.definitions.deployments.values()]
    delimiters = dict.fromkeys(one.reading.delimiter for one in sources if is_text and one.reading.delimiter)
    ids = _IDS if any("id" in source.declared for source in sources) else (*_IDS, "id")

    def needed(names: Container[str]) -> dict[str, Dtype]:
        return {next((name for name in ids if name in names), "prediction"): "str"}

    names = " or ".join(dict.fromkeys(one.name for one in sources))
    hint = f" Rows with the keys of requests instead of ids of predictions are events: ingest them into {names}."
    rows, found = read_loosely(given, needed, None if is_text else "at", "labels", delimiters, hint)
    (of_ids,) = needed(found)
    if not set(found) - {of_ids, "at"}:
        raise Misuse(f"labels: the table needs the columns 'prediction' and 'value'. It has: {', '.join(found)}.")
    taking = _Taking(system, is_text)
    for bad in rows.bad:
        taking.refuse(bad.place, None, f"{f'{bad.field} = ' * bool(bad.field)}{bad.found}: {bad.reason}")
    unit = "line" if is_text else "row"
    for start in range(0, rows.columns.rows, _CHUNK):
        part = rows.columns.take(slice(start, start + _CHUNK))
        places = range(start, start + part.rows) if rows.kept is None else rows.kept[start : start + _CHUNK].tolist()
        columns = {name: column for name, column in part.by_name.items() if name == of_ids or name != "prediction"}
        lists = {"prediction" if name == of_ids else name: column.to_list() for name, column in columns.items()}
        values = zip(*lists.values(), strict=True)
        taking.take(
            (f"{unit} {place + 1}", dict(zip(lists, row, strict=True)))
            for place, row in zip(places, values, strict=True)
        )
        if progress is not None:
            progress(start + part.rows, rows.columns.rows)
    return taking.result()


class _Taking:
    """Takes labels part by part, and counts them."""

    def __init__(self, system: System, is_text: bool) -> None:
        self._system = system
        self._events = LabelEvents(system, system.predictions.find)
        self._is_text = is_text
        self._late = self._refused = 0
        self._models = dict[str, int]()
        self._problems = list[RefusedLabel]()
        self._ignored = dict[str, None]()
        self._counted_as = dict[str, str]()

    def refuse(self, place: str, prediction: str | None, reason: str) -> None:
        """Count a label that was not taken."""
        self._refused += 1
        if len(self._problems) < _NAMED:
            self._problems.append(RefusedLabel(place, prediction, reason))

    def take(self, rows: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Append the labels in some rows, each given with its place."""
        made: dict[str, list[tuple[str, str, MadeLabel]]] = {}
        rows = list(rows)
        read = self._read({row["prediction"] for _, row in rows if row["prediction"] is not None})
        for place, row in rows:
            prediction = row["prediction"]
            try:
                if prediction is None:
                    raise Misuse("it names no prediction")
                found = read.get(prediction) or self._system.predictions.find(prediction)
                label = self._row(found.model, prediction, row)
                event = self._events.one(found.model, label, "label", found=found, text=self._is_text)
            except (Misuse, NotFound) as error:
                self.refuse(place, prediction, str(error))
                continue
            made.setdefault(found.model, []).append((place, prediction, event))
            if event.counts_as is not None and len(self._counted_as) < _TEXTS:
                self._counted_as[str(label.value)] = event.counts_as
        for model, labels in made.items():
            self._append(model, labels)

    def _read(self, ids: set[str]) -> dict[str, Prediction]:
        """Read the log once and return the predictions found, by id; none if it is quicker to search for each."""
        log, times = self._system.predictions, []
        for one in ids:
            with suppress(Misuse):  # not an id; `find` will report it
                times.append(id_time_us(one))
        if len(times) < _FEW:
            return {}
        # the oldest 1 % may be much older than the rest, so they are searched for one by one
        after = log.positions_before(sorted(times)[len(times) // 100])
        if sum(last - after.get(name, 0) for name, last in log.log.positions().items()) > _READ * len(times):
            return {}
        found: dict[str, Prediction] = {}
        for block in log.scan(after):
            found |= {prediction.id: prediction for prediction in block if prediction.id in ids}
            if len(found) == len(ids):
                break
        return found

    def _row(self, model: str, prediction: str, row: dict[str, Any]) -> LabelRow:
        """Return the label in a row of the table, without columns that its source does not have."""
        source = self._events.of_model(model).source
        columns = {}
        for name, value in row.items():
            if name in _OWN or value is None:
                continue
            if name not in source.declared:
                self._ignored[name] = None
                continue
            columns[name] = value
            if self._is_text:
                try:
                    columns[name] = of_text(source.declared[name], value, source.format(name))
                except Refused as refused:
                    raise Misuse(f"{name} is {refused.reason} (found {value!r})") from None
        value, at = row.get("value"), row.get("at")
        if value is None and not columns:
            raise Misuse("it has no value")
        if self._is_text and at is not None:
            at = _time_of(at, source)
        return LabelRow(prediction=prediction, value=msgspec.UNSET if value is None else value, columns=columns, at=at)

    def _append(self, model: str, labels: list[tuple[str, str, MadeLabel]]) -> None:
        source = self._events.of_model(model).source
        pushed = self._system.ingestor.push(source.name, [made.event for _, _, made in labels])
        for problem in pushed.problems:
            place, prediction, made = labels[problem.row]
            said = f"{problem.field} is {problem.reason} (found {problem.found}); it is in quarantine"
            self.refuse(place, prediction, said)
            self._late -= made.late
        self._refused += pushed.quarantined - len(pushed.problems)
        self._late += sum(made.late for _, _, made in labels)
        self._models[model] = self._models.get(model, 0) + pushed.accepted

    def result(self) -> LabelsTaken:
        """Return what became of the labels."""
        return LabelsTaken(
            accepted=sum(self._models.values()),
            refused=self._refused,
            late=self._late,
            models=self._models,
            problems=tuple(sorted(self._problems, key=lambda one: int(one.place.split()[1]))),
            ignored=tuple(self._ignored),
            counted_as=self._counted_as,
        )


def _time_of(text: str, source: Source) -> Any:
    """Return a time in a text file, in ISO 8601 or in the format of the source's time; None if it means null."""
    for written in (source.format(source.time), None):
        with suppress(Refused):
            return of_text("time", text, written)
    form = source.format(source.time)
    also = f" or in the format {form.text!r}" if form is not None and form.text else ""
    raise Misuse(f"at is bad_time (found {text!r}, needed ISO 8601{also})")
