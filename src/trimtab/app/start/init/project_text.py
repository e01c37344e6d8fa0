"""The text of a new project's files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trimtab.app.start.init.entities import Past
from trimtab.app.start.init.file.table import DataTable
from trimtab.app.start.init.labels import python
from trimtab.app.start.init.panels import Window
from trimtab.app.start.init.plan import Plan, slug
from trimtab.core.columns.data import Dtype
from trimtab.core.time import duration_us, format_duration

_MANY_LABELS = 5_000
_TYPES: dict[Dtype, str] = {"float": "float", "int": "int", "bool": "bool", "str": "str", "time": "tt.Time"}


def settings_text(planned: Plan) -> str:
    """Return the text of trimtab.toml."""
    return f"""# All settings: docs/settings.md. Variables such as TRIMTAB_SERVE_PORT=9000 override this file.
[project]
name = {python(planned.name)}

[serve]
port = 8117
"""


def project_text(table: DataTable, planned: Plan) -> str:
    """Return the text of project.py."""
    values = planned.values
    kind = "is" if values.binary else "will be"
    what = f"{planned.label!r} {kind} {values.value}" if values.value else repr(planned.label)
    parts = [
        f'"""Predicts {_one_line(what)}. Written by `trimtab init`; change it as you like."""',
        "import trimtab as tt",
        *([_one_spelling()] if planned.merged else []),
        _request(table, planned),
        _labels(table, planned),
        *([_history(planned)] if planned.key.entity else []),
        *(_past_view(planned, past) for past in planned.pasts),
        _features(planned),
        _estimator(planned),
        _model(planned),
    ]
    return "\n\n".join(f"\n{part}\n" if "\ndef " in f"\n{part}" else part for part in parts) + "\n"


def request_columns(table: DataTable, planned: Plan) -> dict[str, Dtype]:
    """Return the columns of a request: its key, its time, and the columns from which features and key are made."""
    columns: dict[str, Dtype] = {planned.key.name: planned.key.dtype, planned.time: "time"}
    entities = [past.column for past in planned.pasts]
    for name in (*planned.key.of, *planned.key.entity, *entities, *(c.name for c in planned.features)):
        columns.setdefault(name, table.columns[name].dtype or "str")
    return columns


def unique(name: str, taken: Mapping[str, object] | set[str]) -> str:
    """Return `name`; if it is taken, with a number appended.

    >>> unique("id", {"id", "id_2"})
    'id_3'
    """
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _request(table: DataTable, planned: Plan) -> str:
    columns = request_columns(table, planned)
    ahead = planned.panel is not None and planned.panel.horizon_us
    lead = f"    lead={python(planned.panel.horizon)},\n" if planned.panel is not None and ahead else ""
    return f"""# Requests to the model: the same columns in a file, in Python and over HTTP.
# Arguments such as nulls and time_format say how data files are read.
question = tt.request(
    {python(planned.name)},
    key={python(planned.key.name)},
    time={python(planned.time)},
{lead}{_rules(table, planned, columns)}    columns={{
{_columns(columns)}    }},
)"""


def _labels(table: DataTable, planned: Plan) -> str:
    columns: dict[str, Dtype] = {planned.key.name: planned.key.dtype, planned.time: "time"}
    past = [name for one in planned.pasts for name in (one.column, *one.numbers)]
    for name in (*planned.key.of, *planned.key.entity, *past, planned.label, *filter(None, [planned.known_at])):
        columns.setdefault(name, table.columns[name].dtype or "str")
    wait = planned.wait.wait
    known = f"    known_at={python(planned.known_at)},\n" if planned.known_at else ""
    final = "    only_final=True,\n" if planned.wait.seen else ""
    said = f"A label counts as known {wait} after its row"
    if planned.known_at:
        said = f"A label is known at {_one_line(repr(planned.known_at))}, and {wait} after its row where that is null"
    if final:
        said += f"; the rows of the last {wait} of a file are left out"
    value = f"tt.col({python(planned.label)})"
    if planned.label in planned.merged:
        value = f"one_spelling({value})"
    if planned.values.value is not None:
        value += f" == {planned.values.value}"
    return f"""# Outcomes, from the same files. {said}.
labels = tt.source(
    {python(planned.labels)},
    key={python(planned.key.name)},
    time={python(planned.time)},
    delay={python(wait)},
{known}{final}{_rules(table, planned, columns)}    columns={{
{_columns(columns)}    }},
)
truth = {value}"""


def _rules(table: DataTable, planned: Plan, columns: Mapping[str, Dtype]) -> str:
    """Return the arguments that say how files write the values of some columns."""
    kinds = {name: table.columns[name].kind for name in columns if name in table.columns}
    times = {name: kind.time_format for name, kind in kinds.items() if kind.time_format}
    numbers = {name: kind.number_format for name, kind in kinds.items() if kind.number_format}
    given = {
        "delimiter": python(table.delimiter) if table.delimiter else "",
        "nulls": _list(table.nulls) if table.nulls else "",
        "time_format": _mapping(times),
        "number_format": _mapping(numbers),
        "key_of": _list(planned.key.of) if planned.key.of else "",
        "constants": _mapping({name: value for name, value in table.constants.items() if name in columns}),
    }
    return "".join(f"    {name}={text},\n" for name, text in given.items() if text)


def _mapping(texts: Mapping[str, str | None]) -> str:
    return "{" + ", ".join(f"{python(name)}: {python(text)}" for name, text in texts.items()) + "}" if texts else ""


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(python, texts))}]"


def _one_line(text: str) -> str:
    return text.replace("\\", "/").replace('"', "'")


def _columns(columns: Mapping[str, Dtype]) -> str:
    return "".join(f"        {python(name)}: {_TYPES[dtype]},\n" for name, dtype in columns.items())


def _one_spelling() -> str:
    return """@tt.transform(returns=str)
def one_spelling(text):
    return " ".join(text.split()).lower()"""


def _history(planned: Plan) -> str:
    entity = planned.key.entity
    if planned.panel is not None:
        features = "".join(f"\n        {_window_text(window)}," for window in planned.panel.windows()) + "\n    "
    elif planned.values.classes:
        shares = [f'"share_{n}": tt.mean(truth == {python(one)})' for n, one in enumerate(planned.values.classes, 1)]
        features = ", ".join(['"rows": tt.count(truth)', *shares])
    else:
        features = '"rows": tt.count(truth), "mean_label": tt.mean(truth), "last_label": tt.latest(truth)'
    by = python(entity[0]) if len(entity) == 1 else _list(entity)
    said = _one_line(", ".join(map(repr, entity)))
    return f"""# Outcomes of the same {said} that were known at the time of the request.
history = tt.view(
    "history",
    source=labels,
    by={by},
    features={{{features}}},
)"""


def _past_view(planned: Plan, past: Past) -> str:
    name, said = _past_name(planned, past), _one_line(repr(past.column))
    features = "".join(f"\n        {python(one)}: {text}," for one, text in _past_features(planned, past).items())
    return f"""# Rows of the same {said}, at least {past.wait} older than a request, so that their labels are known.
# If a label is given with the id of a prediction, the columns of this view are copied from the request.
{name} = tt.view(
    {python(name)},
    source=labels,
    by={python(past.column)},
    features={{{features}
    }},
)"""


def _past_features(planned: Plan, past: Past) -> dict[str, str]:
    """Return for each feature of an entity's past the text that declares it."""
    found: dict[str, str] = {}

    def add(name: str, aggregate: str, value: str, days: int) -> None:
        window = f"over={python(past.over(days))}, until={python(past.wait)}"
        found[unique(f"{name}_{days}d", found)] = f"tt.{aggregate}({value}{', ' * bool(value)}{window})"

    labels = {"mean_label": "truth"}
    if planned.values.classes:
        labels = {f"share_{n}": f"truth == {python(one)}" for n, one in enumerate(planned.values.classes, 1)}
    for days in past.days:
        if days != past.days[-1]:  # in a window as long as the file, counts and sums grow with time, and means do not
            add("rows", "count", "", days)
        for name, value in labels.items():
            add(name, "mean", value, days)
    for column in past.numbers:
        for aggregate in ("mean", "sum"):
            add(f"{aggregate}_{slug(column, 'column')}", aggregate, python(column), past.days[-2])
    return found


def _past_name(planned: Plan, past: Past) -> str:
    """Return the name of the view of an entity's past."""
    names: dict[str, str] = {}
    for one in planned.pasts:
        names[one.column] = unique(f"past_{slug(one.column, 'entity')}", set(names.values()))
    return names[past.column]


def _window_text(window: Window) -> str:
    over = f", over={python(window.over)}" if window.over else ""
    until = f", until={python(window.until)}" if window.until else ""
    return f"{python(window.name)}: tt.{window.aggregate}(truth{over}{until})"


def _features(planned: Plan) -> str:
    lines: list[str] = []
    names = _feature_names(planned)
    taken = set(names.values())
    for column in planned.features:
        name = names[column.name]
        value = f"tt.col({python(column.name)})"
        if column.name in planned.merged:
            value = f"one_spelling({value})"
        lines.append(f"    {python(name)}: {value}{'.category()' if column.dtype == 'str' else ''},\n")
    if planned.has_hours:
        lines.append(f"    {python(unique('hour', taken))}: tt.col({python(planned.time)}).hour(),\n")
    lines.append(f"    {python(unique('weekday', taken))}: tt.col({python(planned.time)}).weekday(),\n")
    if planned.panel is not None:
        lines.append(f"    {python(unique('month', taken))}: tt.col({python(planned.time)}).month(),\n")
    left = "".join(
        f"    # left out: {python(name)} {' '.join(why.split())}\n" for name, why in planned.left_out.items()
    )
    return f"features = {{\n{''.join(lines)}{left}}}"


def _feature_names(planned: Plan) -> dict[str, str]:
    """Return the names of the features that are columns, by the name of the column."""
    names: dict[str, str] = {}
    for column in planned.features:
        names[column.name] = unique(slug(column.name, "column"), set(names.values()))
    return names


def _estimator(planned: Plan) -> str:
    classifier = planned.values.binary or bool(planned.values.classes)
    kind = "Classifier" if classifier else "Regressor"
    if planned.trees:
        leaf = max(1, min(20, planned.labelled // 50))
        size = "n_estimators=100, learning_rate=0.05, num_leaves=7"  # larger trees would memorise few rows
        if planned.labelled >= _MANY_LABELS:
            size = "n_estimators=200, learning_rate=0.05, num_leaves=15"
        made = f"LGBM{kind}({size}, min_child_samples={leaf}, verbose=-1)"
        return f"def estimator():\n    from lightgbm import LGBM{kind}\n\n    return {made}"
    name, arguments = ("LogisticRegression", "max_iter=1000") if classifier else ("Ridge", "")
    return f"def estimator():\n    from sklearn.linear_model import {name}\n\n    return {name}({arguments})"


def _model(planned: Plan) -> str:
    values = planned.values
    metric = "multi_log_loss" if values.classes else "log_loss" if values.binary else "squared_error"
    classes = f", classes={_list(values.classes)}" if values.classes else ""
    past_names = [_past_name(planned, past) for past in planned.pasts]
    views = ["history"] * bool(planned.key.entity) + past_names
    listed = f"[{', '.join([*views, 'features'])}]"
    wait = planned.wait.wait
    ahead = ""
    if planned.panel is not None and planned.panel.horizon_us:
        wait = format_duration(planned.panel.horizon_us + duration_us(wait))
        ahead = "\n    # The wait counts from the prediction: it is the horizon plus the wait for a row's label."
    allowed = ""
    named = list(planned.allow_leakage)
    if views and not (values.binary or values.classes):
        names = _feature_names(planned)
        named = list(dict.fromkeys([names[column] for column in planned.key.entity if column in names] + named))
        past = [f'f"{view}.{{name}}" for name in {view}.features' for view in views]
        allowed = "\n    # A key and its past labels may predict the label very well. That is no leak."
        several = [*(f"*({one})" for one in past), *map(python, named)]
        allowed += f"\n    allow_leakage=[{past[0] if several == [f'*({past[0]})'] else ', '.join(several)}],"
    elif named:
        allowed = f"\n    allow_leakage={_list(named)},"
    return f"""model = tt.model(
    {python(planned.model)},
    request=question,
    features={listed},{ahead}
    label=tt.label(labels, key={python(planned.key.name)}, value=truth, wait={python(wait)}{classes}),
    estimator=estimator,
    metric={python(metric)},{allowed}
)

# Train again when quality has dropped: a version is then promoted only if it is shown to be better. Train again after
# 30 days, too: then it is enough that the version is not shown to be worse.
tt.deployment(
    model,
    retrain=tt.on_quality_drop() | tt.every("30d"),
    gate=tt.beats_champion(window={python(planned.window)}, calibration={planned.calibration:g}),
)"""
