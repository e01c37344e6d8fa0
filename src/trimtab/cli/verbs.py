"""The table of verbs: their modules, and which of them are never suggested after a typing error."""

from __future__ import annotations

from typing import NamedTuple


class Group(NamedTuple):
    """A verb with verbs below it, such as `trimtab versions list`."""

    help: str
    example: str
    default: str | None  # the verb that is used if none is given
    below: dict[str, str]  # the module and the name of each command


# The headings of the help text, with the verbs under each heading: the module and name of the command, or a group.
VERBS: dict[str, dict[str, str | Group]] = {
    "Start": {
        "init": "start.starting:init",
        "doctor": "start.starting:doctor",
        "demo": "start.replaying:demo",
        "simulate": "start.replaying:simulate",
        "help": "start.helping:help_",
    },
    "Data and features": {
        "ingest": "data.files:ingest",
        "quarantine": Group("Show the rows that could not become events, try them again, or drop them.",
            "quarantine list landings", "list", {
            "list": "data.quarantine:list_", "replay": "data.quarantine:replay", "drop": "data.quarantine:drop",
        }),
        "features": Group("List sources, views and features, and compute features as of any time.",
            "features show carrier.late_rate_7d", "list", {
            "list": "loop.planning:features", "show": "loop.planning:feature", "join": "data.tables:join",
            "snapshot": "data.tables:snapshot",
        }),
    },
    "Answers": {
        "predict": "data.files:predict",
        "label": "data.labels:label",
        "serve": "serve.serving:serve",
        "keys": Group("List the API keys of the service, make one, or remove one.",
            "keys add shop --role predict", "list", {
            "list": "serve.keys:list_", "add": "serve.keys:add", "remove": "serve.keys:remove",
        }),
        "service": Group("Watch a running service, and write the files that other tools need for it.",
            "service top --once", None, {
            "top": "top:top", "openapi": "serve.openapi:openapi", "rules": "serve.metrics:rules",
        }),
        "why": "ask.asking:why",
    },
    "The loop": {
        "plan": "loop.planning:plan",
        "apply": "loop.planning:apply",
        "search": Group("Look for the best parameters of a model's estimator, or show the trials.",
            "search run late_flight --trials 100", "run", {
            "run": "loop.searching:search", "trials": "loop.searching:trials",
        }),
        "train": "loop.training:train",
        "tick": "loop.training:tick",
        "runs": Group("List the runs of the loop, show or cancel one, or show the stages that a model is in.",
            "runs show run_01jd3q8z", "list", {
            "list": "loop.runs:runs", "show": "loop.runs:show_one", "cancel": "loop.runs:cancel",
            "stages": "loop.training:stages",
        }),
        "freeze": "loop.moving:freeze",
        "unfreeze": "loop.moving:unfreeze",
    },
    "Experiments": {
        "experiment": Group("Plan, start, read and conclude experiments.",
            "experiment show checkout", "list", {
            "list": "experiments.reading:list_", "show": "experiments.reading:show_one",
            "plan": "experiments.planning:plan", "power": "experiments.planning:power",
            "start": "experiments.running:start", "ramp": "experiments.running:ramp",
            "pause": "experiments.running:pause", "resume": "experiments.running:resume",
            "stop": "experiments.running:stop", "conclude": "experiments.running:conclude",
            "assign": "experiments.running:assign",
        }),
    },
    "Versions": {
        "versions": Group("List, show, compare, describe, export and import the versions of models.",
            "versions show late_flight@champion", "list", {
            "list": "versions.registered:versions", "show": "versions.version:show_one",
            "card": "versions.version:card", "report": "ask.asking:report", "compare": "versions.version:compare",
            "tag": "versions.registered:tag", "export": "versions.version:export",
            "import": "versions.version:import_", "protect": "versions.registered:protect",
        }),
        "promote": "loop.moving:promote",
        "approve": "loop.moving:approve",
        "reject": "loop.moving:reject",
        "canary": "loop.moving:canary",
        "shadow": "loop.moving:shadow",
        "rollback": "loop.moving:rollback",
    },
    "What happened": {
        "status": "ask.asking:status",
        "signals": "ask.signals:signals",
        "quality": Group("Show the quality of answers, times excluded from training, and whether features were right.",
            "quality show late_flight --since 2024-05-01", "show", {
            "show": "ask.quality:quality", "exclusions": "ask.exclusions:exclusions", "skew": "ask.skew:skew",
        }),
        "alert": Group("Show receivers and alerts, send a test alert, or mute a signal for a while.",
            "alert test team", "list", {
            "list": "loop.alert:list_", "test": "loop.alert:test", "mute": "loop.alert:mute",
            "unmute": "loop.alert:unmute",
        }),
        "ledger": Group("List all decisions, or verify their chain of hashes.",
            "ledger list --last 10", "list", {
            "list": "ask.asking:ledger", "verify": "ask.asking:verify",
        }),
    },
    "What is kept": {
        "storage": Group("Show disk usage, free space, and repair, copy or restore the state.",
            "storage prune --dry-run", None, {
            "disk": "keep.keeping:disk", "prune": "keep.keeping:prune", "gc": "versions.registered:gc",
            "compact": "data.stored:compact", "materialise": "data.stored:materialise",
            "rebuild": "data.stored:rebuild", "backup": "keep.keeping:backup", "restore": "keep.keeping:restore",
            "recover": "keep.keeping:recover",
        }),
        "forget": "keep.erasing:forget",
    },
}  # fmt: skip
HIDDEN = {"version": "start.starting:version"}  # `--version` runs it
TOP: dict[str, str | Group] = {name: place for verbs in VERBS.values() for name, place in verbs.items()}
ALSO = {"explain": "why"}  # second names that stay

# Verbs and options that change more than is easily undone. "Did you mean" never proposes them.
CAREFUL = {
    *("apply", "approve", "canary", "forget", "freeze", "promote", "reject", "rollback", "tick", "train", "unfreeze"),
    *(f"experiment {name}" for name in ("conclude", "pause", "ramp", "resume", "start", "stop")),
    *("alert mute", "keys add", "keys remove", "quarantine drop", "runs cancel", "versions import"),
    *("storage compact", "storage gc", "storage prune", "storage rebuild", "storage recover", "storage restore"),
}
CAREFUL_OPTIONS = {"--accept", "--first", "--force", "--release", "--training-sets", "--trust", "--yes"}


def paths() -> dict[str, str]:
    """Return each command's words, such as "versions list", with its module and name, without hidden commands."""
    found: dict[str, str] = {}
    for name, place in TOP.items():
        if isinstance(place, Group):
            found |= {f"{name} {below}": where for below, where in place.below.items()}
        else:
            found[name] = place
    return found
