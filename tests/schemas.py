"""The forms of what each verb prints with `--json`. `python tests/schemas.py` writes docs/json.md.

The schemas come from the Structs that are printed; the meaning of a field is the comment at its line.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "json.md"
_HEAD = (
    "With `--json` every verb prints JSON on standard output: one document, or one a line where the table says so "
    "(NDJSON). Times in fields that end in `_us` are UTC microseconds since 1970, other times ISO 8601 in UTC. Fields "
    "may be added in a later version. Errors are on standard error, as JSON too ([exit status](cli.md#exit-status))."
)
DECISION = "core.records:Decision"
_CARD = "simulation.scorecard:Scorecard"


class Printed(NamedTuple):
    """One form of output."""

    type: str  # a class as module:name below `trimtab`, in brackets when a list is printed, or the name of one of OWN
    each: bool = False  # one document a line
    when: str = ""


def _all(*forms: str | Printed) -> tuple[Printed, ...]:
    return tuple(one if isinstance(one, Printed) else Printed(one) for one in forms)


# What each verb prints.
PRINTED: dict[str, tuple[Printed, ...]] = {
    "init": _all("app.start.init.scaffold:Scaffolded"),
    "doctor": _all("[app.inspect.doctor:Finding]"),
    "demo": _all("ReplayReport"),
    "simulate": _all(
        "ReplayReport",
        Printed("simulation.policy_search:PolicyChoice", when="--search"),
        Printed("experiments.reading.planted_runs:PlantedRuns", when="--experiment"),
    ),
    "help": _all("cli.printed:Help"),
    "ingest": _all("app.features.loading:Ingested"),
    "quarantine list": _all("[events.quarantine:SetAside]"),
    "quarantine replay": _all("events.quarantine:Replayed"),
    "quarantine drop": _all("cli.printed:Dropped"),
    "features list": _all("app.features.feature_catalogue:Catalogue"),
    "features show": _all("app.features.feature_catalogue:Entry"),
    "features join": _all("app.features.feature_tables:FeatureFile"),
    "features snapshot": _all("app.features.feature_tables:FeatureFile"),
    "predict": _all(
        Printed("app.serve.batch:AnsweredTable", when="FILE"),
        Printed("serving.answer.served:Answer", each=True, when="--row"),
    ),
    "label": _all("app.data.label_tables:LabelsTaken"),
    "serve": _all("cli.printed:Served"),
    "keys list": _all(Printed("cli.printed:ListedKey", each=True)),
    "keys add": _all("cli.printed:NewKey"),
    "keys remove": _all("cli.printed:RemovedKey"),
    "service top": _all(Printed("serving.workers.overview:Overview", each=True)),
    "service openapi": _all("OpenAPI", Printed("cli.printed:Written", when="--out")),
    "service rules": _all("cli.printed:Written"),
    "why": _all("app.inspect.explain:Explanation"),
    "plan": _all("app.plan.planning:Plan"),
    "apply": _all("app.plan.applying:AppliedPlan"),
    "search run": _all("app.training.searches:Searched"),
    "search trials": _all("app.training.searches:Searched"),
    "train": _all(f"[{DECISION}]"),
    "tick": _all(f"[{DECISION}]"),
    "runs list": _all(Printed("run:Run", each=True)),
    "runs show": _all("run:Run"),
    "runs cancel": _all("run:Run"),
    "runs stages": _all(Printed("steering.loop.stages:Stage", each=True)),
    "freeze": _all(DECISION),
    "unfreeze": _all(DECISION),
    "experiment list": _all(Printed("experiments.records:ExperimentStatus", each=True)),
    "experiment show": _all("experiments.reading.results:Reading", Printed("cli.printed:Written", when="--page")),
    "experiment plan": _all("experiments.reading.plan:ExperimentPlan"),
    "experiment power": _all(Printed("experiments.reading.plan:RulePlan", each=True)),
    **{f"experiment {one}": _all(DECISION) for one in ("start", "ramp", "pause", "resume", "stop", "conclude")},
    "experiment assign": _all("experiments.assignment:Assignment"),
    "versions list": _all(Printed("registry.searching:Found", each=True)),
    "versions show": _all("registry.describing.signature:DescribedVersion"),
    "versions card": _all("cli.printed:Written"),
    "versions report": _all("cli.printed:Written"),
    "versions compare": _all("registry.describing.compare:Comparison"),
    "versions tag": _all("[registry.tags:Tag]"),
    "versions export": _all("registry.transfer.export:Exported"),
    "versions import": _all("registry:Version"),
    "versions protect": _all("registry.protection:Protection"),
    "promote": _all("app.training.promoting:Promotion"),
    "approve": _all(f"[{DECISION}]"),
    "reject": _all(f"[{DECISION}]"),
    "canary": _all(DECISION),
    "shadow": _all(DECISION),
    "rollback": _all(DECISION),
    "status": _all("app.inspect.status:Status"),
    "signals": _all(Printed("core.records:Signal", each=True)),
    "quality show": _all(
        Printed("QualityRow", each=True),
        Printed("cli.printed:Written", when="--page"),
        Printed(DECISION, when="--accept"),
    ),
    "quality exclusions": _all(Printed("monitoring.inputs.red_windows:RedWindow", each=True)),
    "quality skew": _all(
        "app.inspect.skew_report:SkewReport",
        Printed("app.inspect.skew_report:SkewReport", each=True, when="--history"),
    ),
    "alert list": _all("app.alerts.alert_overview:AlertOverview"),
    "alert test": _all("[app.alerts.alerting:TriedReceiver]"),
    "alert mute": _all(DECISION),
    "alert unmute": _all(DECISION),
    "ledger list": _all(Printed(DECISION, each=True)),
    "ledger verify": _all("cli.printed:Verified"),
    "storage disk": _all("app.keep.disk:Disk"),
    "storage prune": _all("app.keep.retention:Retained"),
    "storage gc": _all("registry.collecting.collector:Collection"),
    "storage compact": _all("features.online.compaction:CompactedStates"),
    "storage materialise": _all("events.tables:Materialised"),
    "storage rebuild": _all("cli.printed:Rebuilt"),
    "storage backup": _all("app.keep.backup:Backup"),
    "storage restore": _all("app.keep.backup:Backup"),
    "storage recover": _all("app.keep.recovering:Recovered"),
    "forget": _all("app.keep.erasure:Forgotten"),
}


@cache
def own() -> dict[str, Any]:
    """The types of documents that are made of columns or of several Structs."""
    from trimtab.app.inspect.quality import _DTYPES
    from trimtab.core.records import Decision
    from trimtab.simulation.results import MonthRow, ReplayResult

    kinds = {"time": int, "str": str, "int": int, "bool": bool, "float": float}
    fields = [(name, kinds[dtype] | None) for name, dtype in _DTYPES.items()]
    row = msgspec.defstruct("QualityRow", [*fields, ("batch", str, "")], omit_defaults=True, kw_only=True)
    row.__doc__ = "The sums of one block of time, version, arm and slice (docs/quality.md)."
    card = [(name, kind) for name, kind in hints(named(_CARD)).items() if name != "line"]
    more = [
        ("months", list[MonthRow]),
        ("final_until_us", int | None),
        ("decisions", list[Decision]),
        ("true_alarms", int | None),
        ("false_alarms", int | None),
    ]
    scenario = msgspec.defstruct("ScenarioReport", [*more, *card], kw_only=True)
    scenario.__doc__ = "How well one scenario of a replay did."
    result = hints(ReplayResult)
    kept = (
        *("start_us", "start_why", "refused_starts", "until_us", "entered", "quarantined", "checked_values"),
        *("mismatches", "faults", "seed", "shifts"),
    )
    replay = msgspec.defstruct(
        "ReplayReport", [*((name, result[name]) for name in kept), ("lines", dict[str, scenario])], kw_only=True
    )
    replay.__doc__ = "The results of a replay, by scenario."
    return {"QualityRow": row, "ReplayReport": replay, "OpenAPI": dict[str, Any]}


def hints(kind: type) -> dict[str, Any]:
    """The fields of a Struct with their types."""
    found = typing.get_type_hints(kind)
    return {name: found[name] for name in kind.__struct_fields__}  # type: ignore[attr-defined]  # a Struct has them


def named(text: str) -> Any:
    """The type that a text of PRINTED stands for."""
    if text.startswith("["):
        return list[named(text[1:-1])]
    if ":" not in text:
        return own()[text]
    module, _, name = text.partition(":")
    return getattr(import_module(f"trimtab.{module}"), name)


def _hook(kind: type) -> dict[str, Any]:
    if kind is Path:
        return {"type": "string"}
    raise NotImplementedError


@cache
def schemas() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The JSON Schema of each type of PRINTED, and of each Struct in them."""
    texts = list(dict.fromkeys(one.type for forms in PRINTED.values() for one in forms))
    found, parts = msgspec.json.schema_components([named(text) for text in texts], schema_hook=_hook)
    return dict(zip(texts, found, strict=True)), parts


def problems(value: Any, schema: dict[str, Any], at: str = "$") -> Iterator[str]:
    """Where a value is not as the schema says. A field that the schema does not name is a problem."""
    if "$ref" in schema:
        yield from problems(value, schemas()[1][schema["$ref"].rpartition("/")[2]], at)
    elif "anyOf" in schema:
        tried = [list(problems(value, one, at)) for one in schema["anyOf"]]
        if all(tried):
            yield from min(tried, key=len)
    elif "enum" in schema:
        if value not in schema["enum"]:
            yield f"{at}: {value!r} is none of {schema['enum']}"
    elif "const" in schema:
        if value != schema["const"]:
            yield f"{at}: {value!r} is not {schema['const']!r}"
    elif schema.get("type") == "object":
        yield from _problems_of_object(value, schema, at)
    elif schema.get("type") == "array":
        if not isinstance(value, list):
            yield f"{at}: {value!r} is no array"
            return
        fixed = schema.get("prefixItems", [])
        for place, item in enumerate(value):
            part = fixed[place] if place < len(fixed) else schema.get("items", {})
            if part is False:
                yield f"{at}: {len(value)} items"
            else:
                yield from problems(item, part, f"{at}[{place}]")
    elif "type" in schema:
        kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
        fits = isinstance(value, kinds[schema["type"]]) and (schema["type"] == "boolean" or not isinstance(value, bool))
        if not fits:
            yield f"{at}: {value!r} is no {schema['type']}"


def _problems_of_object(value: Any, schema: dict[str, Any], at: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{at}: {value!r} is no object"
        return
    fields, others = schema.get("properties", {}), schema.get("additionalProperties", "properties" not in schema)
    yield from (f"{at}: {name!r} is missing" for name in schema.get("required", ()) if name not in value)
    for name, item in value.items():
        if name in fields:
            yield from problems(item, fields[name], f"{at}.{name}")
        elif not others:
            yield f"{at}: {name!r} is not in the schema"
        elif isinstance(others, dict):
            yield from problems(item, others, f"{at}.{name}")


# --- the document


def meanings(kind: type) -> dict[str, str]:
    """The comment of each field in the source of a Struct: at its line, or above it."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("trimtab."):
            continue
        lines = inspect.getsource(base).split("\n")
        above: list[str] = []
        for line in lines:
            if match := re.match(r"    (\w+): [^#]*?(?:#\s*(.*))?$", line):
                found[match[1]] = match[2] or " ".join(above)
                above = []
            elif match := re.match(r"    #\s*(.*)$", line):
                above.append(match[1])
            else:
                above = []
            if re.match(r"    (?:def|@)", line):
                break
    json = {"None": "null", "True": "true", "False": "false"}
    found = {name: re.sub(r"\s*# ?D\d+.*$", "", text) for name, text in found.items()}
    return {name: re.sub(r"\b(None|True|False)\b", lambda m: json[m[0]], text) for name, text in found.items()}


def _anchor(name: str) -> str:
    return name.lower().replace(".", "").replace(" ", "-")


def _shown(schema: dict[str, Any]) -> str:
    """A schema as words, with links to the Structs in it."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{_title(name)}](#{_anchor(_title(name))})"
    if "anyOf" in schema:
        return " or ".join(_shown(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"array of {', '.join(_shown(one) for one in schema['prefixItems'])}"
        return f"array of {_shown(schema.get('items', {}))}"
    if schema.get("type") == "object":
        others = schema.get("additionalProperties", True)
        return f"object of {_shown(others)} by name" if isinstance(others, dict) else "object"
    return str(schema.get("type", "any"))


def _title(name: str) -> str:
    """The name of a Struct; with its module where another one has the same name."""
    module, _, short = name.removeprefix("trimtab.").rpartition(".")
    return short if _is_alone(short) else f"{short} of {module}"


def _is_alone(name: str) -> bool:
    return sum(one.rpartition(".")[2] == name for one in schemas()[1]) == 1


def _structs() -> dict[str, type]:
    """Each Struct that is printed, by its name in the schemas."""
    found: dict[str, type] = {}
    waiting = [named(text) for text in schemas()[0]]
    seen: set[Any] = set()
    while waiting:
        kind = waiting.pop()
        if kind in seen:
            continue
        seen.add(kind)
        if inspect.isclass(kind) and issubclass(kind, msgspec.Struct):
            alone = _is_alone(kind.__name__)
            found[kind.__name__ if alone else f"{kind.__module__}.{kind.__name__}"] = kind
            waiting += hints(kind).values()
        waiting += getattr(kind, "__args__", ())
    return found


def document() -> str:
    """The text of docs/json.md."""
    whole, parts = schemas()
    out = [
        "# JSON of the command line",
        "",
        _HEAD,
        "",
        "Made from the code by `python tests/schemas.py`. A test runs every verb and compares its output with these.",
        "",
        "## Verbs",
        "",
        "| verb | prints |",
        "|---|---|",
    ]
    for verb, forms in PRINTED.items():
        said = [
            (f"with `{one.when}` " if one.when.startswith("-") else f"for `{one.when}` " if one.when else "")
            + ("one a line: " if one.each else "")
            + (_shown(whole[one.type]) if one.type != "OpenAPI" else "the OpenAPI 3.1 document of the service")
            for one in forms
        ]
        out.append(f"| `{verb}` | {'; '.join(said)} |")
    out += ["", "## Objects", ""]
    structs = _structs()
    for name in sorted(parts, key=lambda one: _title(one).casefold()):
        kind, schema = structs[name], parts[name]
        said = meanings(kind) if kind.__module__.startswith("trimtab") else {}
        if kind.__name__ == "ScenarioReport":
            said = meanings(named(_CARD))
        if kind.__name__ == "ReplayReport":
            said = meanings(import_module("trimtab.simulation.results").ReplayResult)
        first = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")
        out += [f"### {_title(name)}", "", first, "", "| field | type | meaning |", "|---|---|---|"]
        for field, part in schema.get("properties", {}).items():
            out.append(
                f"| `{field}` | {_shown(part)} | {said.get(field, '').replace('|', chr(92) + '|')} |".replace(
                    "  |", " |"
                )
            )
        out.append("")
    return "\n".join(out)


if __name__ == "__main__":
    text = document()
    PAGE.write_text(text, "utf-8")
    sys.exit(0)
