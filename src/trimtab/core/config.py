"""Settings of a project, from `trimtab.toml` and from environment variables `TRIMTAB_*`, which override the file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from trimtab.core.alert_settings import AlertsSettings, with_receivers_name
from trimtab.core.errors import Misuse, NotFound
from trimtab.core.shown import size_bytes
from trimtab.core.time import DAY_US, duration_us

FILE = "trimtab.toml"
_PREFIX = "TRIMTAB_"
_TEST_PREFIX = "TRIMTAB_TEST_"  # variables with this prefix are addresses of servers for tests, not settings


class ProjectSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name of a project, and where its definitions and its state are."""

    name: str = "project"
    file: str = "project.py"  # relative to the folder of trimtab.toml
    state: str = ".trimtab"


class ServeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of `trimtab serve`."""

    host: str = "127.0.0.1"
    port: int = 8117
    grpc_port: int | None = None  # None: no gRPC; 0: any free port
    log: Literal["durable", "relaxed"] = "durable"
    max_body_bytes: int = 8 * 1024 * 1024
    # memory for the bodies of all requests that one process handles at once
    max_bodies_bytes: int = 256 * 1024 * 1024
    max_rows: int = 10_000
    model_memory_bytes: int = 1024**3  # memory for loaded versions, each counted with the size of its stored model
    workers: int = 1  # processes that answer requests; if there are several, one more process does all other work
    require_key: bool | None = None  # None: a key is required as soon as one was created
    tls_cert: str | None = None  # a PEM file, relative to the folder of trimtab.toml; if given, the server speaks HTTPS
    tls_key: str | None = None  # None: the key is in the file of the certificate
    tls_min: Literal["1.2", "1.3"] = "1.2"
    access_log: str = "off"  # "-": to standard output; otherwise a file, relative to the folder of trimtab.toml
    traces: str | None = None  # the URL of an OpenTelemetry collector (OTLP over HTTP)
    # the share of requests to trace, among those whose headers do not say whether to trace them
    traces_share: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 64:
            raise ValueError(f"workers must be 1 to 64, not {self.workers}")
        for name in ("max_body_bytes", "max_bodies_bytes", "max_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls_key needs tls_cert, too")
        if self.traces is not None and not self.traces.startswith(("http://", "https://")):
            raise ValueError(f"traces must be an address such as http://127.0.0.1:4318/v1/traces, not {self.traces!r}")
        if not 0.0 <= self.traces_share <= 1.0:
            raise ValueError(f"traces_share must be 0 to 1, not {self.traces_share}")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be 0 to 65535, not {self.port}")
        if not 0 <= (self.grpc_port or 0) <= 65_535:
            raise ValueError(f"grpc_port must be 0 to 65535, not {self.grpc_port}")


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """URLs of the stores that are on a server. All other stores are in the state folder."""

    online: str | None = None  # a key-value store for the states of online features

    @property
    def urls(self) -> dict[str, str]:
        """The URLs by the name of the store."""
        return {name: url for name in self.__struct_fields__ if (url := getattr(self, name)) is not None}


class FeaturesSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings for the computation of features of many requests."""

    memory_bytes: int = 4 * 1024**3

    def __post_init__(self) -> None:
        if self.memory_bytes < 256 * 1024**2:
            raise ValueError(f"memory_bytes must be at least 268435456, not {self.memory_bytes}")


class TrainingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of training: whether it runs in its own process, with which priority, and with how many threads."""

    executor: Literal["process", "thread"] = "process"
    nice: int = 10  # added to the nice value of the process that trains
    threads: int = 1  # how many threads estimators and numerical libraries use

    def __post_init__(self) -> None:
        if not 0 <= self.nice <= 19:
            raise ValueError(f"nice must be 0 to 19, not {self.nice}")
        if self.threads < 1:
            raise ValueError(f"threads must be 1 or more, not {self.threads}")


class ScenarioSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scenario of a replay: a model, and the policy by which it is retrained."""

    name: str
    model: str
    policy: Literal["never", "project", "schedule", "day_ahead"] = "project"
    at: str = "23:00"  # for day_ahead: the time of day (UTC) at which the requests of the next day are scored
    like: str | None = None  # for day_ahead: the name of the scenario whose model scores these requests


class DemoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of `trimtab demo`."""

    loader: str  # "load.py:load": a function that gets a folder, and returns a file for each event source
    start: str
    until: str
    lines: list[ScenarioSettings]
    requires: list[str] = []  # modules that the project's models must be able to import
    sampled_rows: int = 1_000


FOREVER = "forever"


def _kept_us(kept: str | None, key: str) -> int | None:
    """Return a retention time in microseconds; None: for ever."""
    if kept is None or kept == FOREVER:
        return None
    us = duration_us(kept)
    if us < DAY_US:
        raise ValueError(f'{key} = "{kept}" is less than a day; give "1d" at least, or "{FOREVER}"')
    return us


class RetentionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of how long records are kept. Records without a setting are kept for ever."""

    events: str | None = None  # for every source that is not in `sources`
    sources: dict[str, str] = {}  # for each source, a duration or "forever"
    predictions: str | None = None
    quarantine: str | None = None
    disk_budget: str | None = None  # the largest size of the state folder, for example "20GB"

    def __post_init__(self) -> None:
        named = {f"sources.{name}": kept for name, kept in self.sources.items()}
        for key, kept in {"events": self.events, "predictions": self.predictions, **named}.items():
            _kept_us(kept, key)
        _kept_us(self.quarantine, "quarantine")
        if self.disk_budget is not None and size_bytes(self.disk_budget) <= 0:
            raise ValueError("disk_budget must be above zero")

    @property
    def is_set(self) -> bool:
        """Whether any of these settings is given."""
        return self != RetentionSettings()

    def events_us(self, source: str) -> int | None:
        """Return how long events of a source are kept, in microseconds; None: for ever."""
        return _kept_us(self.sources.get(source, self.events), "events")

    @property
    def predictions_us(self) -> int | None:
        return _kept_us(self.predictions, "predictions")

    @property
    def quarantine_us(self) -> int | None:
        return _kept_us(self.quarantine, "quarantine")

    @property
    def budget_bytes(self) -> int | None:
        return None if self.disk_budget is None else size_bytes(self.disk_budget)


class RegistrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the registry: what is required to move an alias to another version."""

    # for each model and alias: "gate" (the version must have passed its gate checks) or "reason" (one must be given)
    protected: dict[str, dict[str, Literal["gate", "reason"]]] = {}

    def __post_init__(self) -> None:
        for model, aliases in self.protected.items():
            if aliases.get("champion", "gate") != "gate":
                raise ValueError(
                    f'protected.{model}.champion must be left out or set to "gate": a champion always needs a gate'
                )


class ExperimentsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of all experiments."""

    holdout: float = 0.0  # the share of all units that take part in no experiment

    def __post_init__(self) -> None:
        if not 0.0 <= self.holdout < 1.0:
            raise ValueError(f"holdout must be from 0 to below 1, not {self.holdout}")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one project, and the folder to which their paths are relative."""

    folder: Path = Path()
    project: ProjectSettings = ProjectSettings()
    serve: ServeSettings = ServeSettings()
    store: StoreSettings = StoreSettings()
    retention: RetentionSettings = RetentionSettings()
    features: FeaturesSettings = FeaturesSettings()
    training: TrainingSettings = TrainingSettings()
    registry: RegistrySettings = RegistrySettings()
    alerts: AlertsSettings = AlertsSettings()
    experiments: ExperimentsSettings = ExperimentsSettings()
    demo: DemoSettings | None = None
    seed: int = 1

    @property
    def project_file(self) -> Path:
        return self.folder / self.project.file

    @property
    def state_folder(self) -> Path:
        return self.folder / self.project.state


def load_config(folder: Path, environment: Mapping[str, str]) -> Config:
    """Return the settings of the project in `folder`. A variable such as `TRIMTAB_SERVE_PORT=9000` overrides the file.

    Raises:
        NotFound: There is no `trimtab.toml` in the folder.
        Misuse: A key is unknown, a value has the wrong type, or the file is not TOML. The message names the file or
            variable.
    """
    folder = folder.absolute()
    file = folder / FILE
    if not file.is_file():
        raise NotFound(f"{file}: not found, so this folder is not a trimtab project. Create one: trimtab init FILE.csv")
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misuse(f"{file}: not valid TOML: {error}.") from error
    if "folder" in document:
        raise Misuse(f"{file}: unknown key `folder`. Paths in the settings are relative to the folder of this file.")
    _convert(_whole(document), str(file), strict=True)
    for name, value in sorted(environment.items()):
        if name.startswith(_PREFIX) and not name.startswith(_TEST_PREFIX):
            _apply(document, name, value)
            _convert(document, name)
    return msgspec.structs.replace(_convert(document, str(file)), folder=folder)


def _convert(document: Mapping[str, Any], where: str, *, strict: bool = False) -> Config:
    try:
        # not strict for the environment, where all values are texts
        return msgspec.convert(document, Config, strict=strict)
    except msgspec.ValidationError as error:
        said = with_receivers_name(str(error), document, strict=strict)
        raise Misuse(f"{where}: {said}{_allowed(str(error))}. The settings are listed in docs/settings.md.") from error


def _whole(value: Any) -> Any:
    """Return a document with floats such as 8e6 replaced by integers. (Float settings also accept integers.)"""
    if isinstance(value, dict):
        return {key: _whole(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_whole(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _allowed(error: str) -> str:
    """If the error is about a value that is not allowed, return a list of the allowed values."""
    message, _, pointer = error.partition(" - at `$.")
    if not message.startswith("Invalid enum value"):
        return ""
    kind: Any = Config
    for key in re.sub(r"\[[^]]*\]", ".[]", pointer.rstrip("`")).split("."):
        if NoneType in get_args(kind):
            kind = get_args(kind)[0]
        if key == "[]":
            kind = [one for one in get_args(kind) if one is not ...][-1]
        else:  # for a union, take the first type that has the key
            hints = [get_type_hints(one) for one in (get_args(kind) or (kind,))]
            kind = next(one[key] for one in hints if key in one)
    return f"; give one of {', '.join(map(repr, get_args(kind)))}"


def _apply(document: dict[str, Any], variable: str, value: str) -> None:
    section, _, key = variable.removeprefix(_PREFIX).lower().partition("_")
    if not key:
        document[section] = value
    elif isinstance(document.setdefault(section, {}), dict):
        document[section][key] = value
