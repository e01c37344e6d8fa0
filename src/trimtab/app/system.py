"""The parts of an open project, such as its stores and models. Each is opened when it is first needed."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from trimtab.app.calls import PublicNames
from trimtab.app.models.experiment_split import StoredArms
from trimtab.app.models.version_memory import VersionMemory
from trimtab.app.online.applier_error import standing
from trimtab.app.online.views import Views
from trimtab.app.state.definitions import Definitions
from trimtab.app.state.layouts import Layouts
from trimtab.app.state.live_definitions import LiveDefinitions
from trimtab.app.state.lost_records import refuse_lost
from trimtab.app.state.retention_needs import features_from_us
from trimtab.app.state.state import INDEX, State, StateMark, kept_from
from trimtab.core.clock import Clock, SystemClock
from trimtab.core.closing import Closing
from trimtab.core.config import Config
from trimtab.core.errors import Misuse
from trimtab.core.ids import TimeIds
from trimtab.events.definitions import Source
from trimtab.registry import LoadedModel, Registry, Version
from trimtab.run import Runs
from trimtab.serving.access_keys import MARKER, AccessKeys
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.training.definitions import Model

if TYPE_CHECKING:  # imported where first needed, so that a service starts sooner
    from trimtab.app.models.served_model import ServedModel
    from trimtab.app.online.history import SharedHistory
    from trimtab.events import Ingestor, Quarantine
    from trimtab.events.columns.frames import EventFrame
    from trimtab.events.columns.key_index import KeyIndex
    from trimtab.experiments.definitions import Experiment
    from trimtab.experiments.eligibility import EligibilityReader

Part = TypeVar("Part")
_logger = logging.getLogger(__name__)
_LOOK_S = 0.2  # the time between two checks whether another process has applied events
_MADE_ONCE = (
    "_ingestor",
    "quarantine",
    "_history",
    "_asked_history",
    "predictions",
    "recorded",
    "registry",
    "keys",
    "views",
    "definitions",
    "layouts",
    "live",
    "version_memory",
)


class System(Closing, metaclass=PublicNames):
    """The parts of an open project: state, definitions, event log, features, registry, served models.

    Close it after use, or use it in a `with` statement. Closing it also closes all parts taken from it.

    Args:
        clock: Gives the time everywhere in the project. By default, this is the system's clock.
        state: The state folder, if it is not the one in the settings.

    Raises:
        Misuse: The state was written by a newer trimtab.
    """

    _public = (  # the parts that users may take from a project
        *("clock", "close", "config", "definitions", "features_from_us", "history", "ingestor", "keys", "predictions"),
        *("quarantine", "registry", "served", "sources", "state", "views"),
    )

    def __init__(
        self, config: Config, definitions: Definitions, *, clock: Clock | None = None, state: Path | None = None
    ) -> None:
        self.config = config
        self.declared = definitions
        self.clock = clock or SystemClock()
        self._mutex = threading.RLock()
        self.state_folder = config.state_folder if state is None else state
        self._begin()

    def reopen(self) -> None:
        """Close all parts and open them again from what is stored."""
        self.close()
        self._begin()

    def _begin(self) -> None:
        self._forget_parts()
        self._state: State | None = State(
            self.state_folder, clock=self.clock, prediction_mode=self.config.serve.log, urls=self.config.store.urls
        )

    def _forget_parts(self) -> None:
        for part in _MADE_ONCE:
            self.__dict__.pop(part, None)
        self._served: dict[str, ServedModel] = {}
        # for each model: `state.mark()` at its last check, and the monotonic time until which it need not be repeated
        self._seen: dict[str, tuple[StateMark | None, float]] = {}
        self._parts: dict[object, Any] = {}
        self._indexes: dict[tuple[str, str] | None, KeyIndex] = {}

    def part(self, kind: Callable[[System], Part]) -> Part:
        """Return this project's object of a class, such as `system.part(Loops)`. It is created when first needed."""
        with self._mutex:
            if kind not in self._parts:
                self._parts[kind] = kind(self)
            found: Part = self._parts[kind]
            return found

    @property
    def state(self) -> State:
        """The stores of the state folder.

        Raises:
            Misuse: The project is closed.
        """
        if self._state is None:
            raise Misuse(
                f"{self.config.folder}: this project is closed. Open it again: tt.open({str(self.config.folder)!r})"
            )
        return self._state

    @cached_property
    def layouts(self) -> Layouts:
        """The positions of the sources' columns in stored events."""
        return Layouts(self.state)

    @cached_property
    def definitions(self) -> Definitions:
        """The definitions of the project file, with each source column at its position in stored events.

        Raises:
            Misuse: A column is declared with another type than it has in recorded events.
        """
        return self.declared.placed(self.layouts.place)

    @cached_property
    def live(self) -> LiveDefinitions:
        """The feature definitions in use.

        They include the definitions of versions that were trained before the project file changed.
        """
        return LiveDefinitions(
            self.definitions,
            registry=self.registry,
            catalog=self.state.catalog,
            blob=self.state.blob,
            place=self.layouts.place,
            clock=self.clock,
        )

    @property
    def sources(self) -> list[Source]:
        return list(self.definitions.sources.values())

    @property
    def ingestor(self) -> Ingestor:
        """The object that checks rows of events and appends them to the log."""
        with self._mutex:  # if several threads need it at once, all must get the same object
            return self._ingestor

    @cached_property
    def _ingestor(self) -> Ingestor:
        from trimtab.events import Ingestor

        refuse_lost(self.state)
        return Ingestor(
            self.state.events,
            self.sources,
            clock=self.clock,
            quarantine=self.quarantine,
            future_ok=frozenset(self.definitions.requests),
            note=self.layouts.note,
        )

    @cached_property
    def quarantine(self) -> Quarantine:
        """The rows that were refused, with reasons."""
        from trimtab.events import Quarantine

        return Quarantine(self.state.quarantine)

    @property
    def history(self) -> SharedHistory:
        """The event log as columns, as of its last refresh.

        It begins with the tables of record (the long-term store of events), if there are any.
        """
        with self._mutex:  # if several threads need it at once, all must get the same object
            return self._history

    @cached_property
    def _history(self) -> SharedHistory:
        from trimtab.app.online.history import SharedHistory

        return SharedHistory(self.state.events, self.sources, tables=partial(self.state.moved, self.sources))

    @property
    def event_ids(self) -> KeyIndex:
        """The index that finds all versions of an event without reading the whole log."""
        return self.event_index()

    def event_index(self, column: tuple[Source, str] | None = None) -> KeyIndex:
        """Return an index of the event log by the ids of events, or by the values of a source's column."""
        from trimtab.events.columns.key_index import KeyIndex

        with self._mutex:
            what = None if column is None else (column[0].name, column[1])
            if what not in self._indexes:
                folder, moved = self.state_folder / INDEX, partial(self.state.moved, self.sources)
                self._indexes[what] = KeyIndex(self.state.events, folder, moved, column=column)
            return self._indexes[what]

    def events_with(self, source: Source, column: str, keys: Sequence[Any]) -> EventFrame:
        """Return all versions of the events of a source that have, or had, one of these keys in a column."""
        from trimtab.events.columns.key_index import versions_of

        ids = {str(key) for key in keys}
        if column != source.key:
            ids = self.event_index((source, column)).ids(source, keys)
        return versions_of(self.event_ids, source, ids)

    def in_memory(self) -> bool:
        """Return whether all events fit into half of `features.memory_bytes`. Logs grow, so this may change."""
        from trimtab.app.online.history import fits_memory

        return fits_memory(self.state.events, self.config.features.memory_bytes)

    def drop_history(self) -> None:
        """Free the memory of the histories and of the indexes, which are read again when they are next needed."""
        with self._mutex:
            self.__dict__.pop("_history", None)
            self.__dict__.pop("_asked_history", None)
            self._indexes.clear()

    @property
    def asked_history(self) -> SharedHistory:
        """The requests and labels of all models, as columns.

        If all events fit into memory, this is `history` itself.
        """
        return self.history if self.in_memory() else self._asked_history

    @cached_property
    def _asked_history(self) -> SharedHistory:
        from trimtab.app.online.history import SharedHistory

        models = self.definitions.models.values()
        names = {model.request.name for model in models} | {model.label.source.name for model in models}
        sources = [source for source in self.sources if source.name in names]
        return SharedHistory(self.state.events, sources, tables=partial(self.state.moved, sources))

    @cached_property
    def predictions(self) -> PredictionLog:
        """The prediction log."""
        return PredictionLog(self.state.predictions)

    @cached_property
    def registry(self) -> Registry:
        """The registered versions and their aliases."""
        protected = self.config.registry.protected
        for model in protected:
            if model not in self.definitions.models:
                known = ", ".join(self.definitions.models) or "none"
                raise Misuse(f"trimtab.toml: [registry.protected.{model}] is not a declared model. Models: {known}.")
        return Registry(
            self.state.catalog,
            self.state.blob,
            clock=self.clock,
            actor="a person",
            folder=self.config.folder,
            declared={name: protected.get(name, {}) for name in self.definitions.models},
        )

    @cached_property
    def keys(self) -> AccessKeys:
        """The API keys of the service."""
        return AccessKeys(self.state.catalog, clock=self.clock, marker=self.state_folder / MARKER)

    @cached_property
    def views(self) -> Views:
        """The online features, to which the event log is applied."""
        return Views(self.state, self.live.views, history=lambda: self.history, clock=self.clock)

    @cached_property
    def recorded(self) -> Runs:
        """The recorded training runs of all deployments."""
        return Runs(self.state.catalog, self.state_folder / "runs", clock=self.clock, ids=TimeIds(self.clock))

    def served(self, model: str) -> ServedModel:
        """The served model of a deployment, which loads versions and answers with them at one endpoint."""
        from trimtab.app.models.answerers import Answerers, VersionFeatures
        from trimtab.app.models.served_model import ServedModel

        deployment = self.definitions.deployment(model)
        if deployment.name not in self._served:
            answerers = Answerers(
                deployment,
                features=VersionFeatures(
                    of=self.live.of,
                    holds=self.views.holds,
                    from_us=lambda features: features_from_us(features, kept_from(self.state.catalog)),
                ),
                online=self.state.online,
                learners=self.state.learners,
                snapshot=self.views.snapshot,
                log=self.predictions,
                clock=self.clock,
                ids=self.state.prediction_ids,
            )
            self._served[deployment.name] = ServedModel(
                answerers,
                registry=self.registry,
                memory=self.version_memory,
                arms=StoredArms(
                    deployment.name,
                    self.state,
                    self.clock,
                    self.config,
                    self.definitions,
                    reader=self.eligibility,
                    endpoint_of=lambda model: self.served(model).endpoint,
                ),
                answers=self.state.answers,
            )
        return self._served[deployment.name]

    def eligibility(self, experiment: Experiment) -> EligibilityReader | None:
        """Return the reader of the features that an experiment reads when it assigns a unit; None if it reads none."""
        if (features := self.live.eligibility(experiment)) is None:
            return None
        from trimtab.experiments.eligibility import EligibilityReader

        return EligibilityReader(experiment, features, self.state.online, lambda: self.views.filled(features.views))

    def current(self, model: str) -> ServedModel:
        """Return the served model of a deployment, brought up to date with its alias and with the event log.

        Only precomputed answers are looked for if it was up to date before, neither the catalogue nor the event log was
        written since, and the deployment does not learn online.
        """
        served = self.served(model)
        mark, now_s = self.state.mark(), monotonic()
        seen, until_s = self._seen.get(model, (None, 0.0))
        if mark is None or mark != seen or now_s >= until_s or served.answerers.learner is not None:
            # whether something else than the event log may have changed since the last call
            more = mark is None or seen is None or mark.other != seen.other or now_s >= until_s
            more = more or served.answerers.learner is not None
            caught = self.views.catch_up(look=more) or not self.views.views
            if more or not caught:
                for other in served.deployed():
                    self.served(other).refresh()
                served.refresh()
                served.endpoint.see_applied(not caught and standing(self.state.catalog) is not None)
            self._seen[model] = mark, math.inf if caught and served.is_whole else now_s + _LOOK_S
        else:
            served.see_stored()
        return served

    @cached_property
    def version_memory(self) -> VersionMemory:
        """The versions that are loaded in this process, within the memory limit."""
        return VersionMemory(self._load, self.config.serve.model_memory_bytes)

    def _load(self, version: Version) -> LoadedModel:
        """Load a version and, except in virtual time, choose the fastest way to score one row."""
        loaded = self.registry.load(version)
        if isinstance(self.clock, SystemClock):
            self.registry.choose_row_call(loaded)
        return loaded

    def make_room(self) -> None:
        """Unload the least recently used models until the loaded versions fit into the memory limit."""
        for model in sorted(self._served.values(), key=lambda one: one.last_used_us()):
            if not self.version_memory.too_full():
                return
            if model.sleep():
                _logger.info(
                    "%s was unloaded until its next request: memory for versions is full", model.deployment.name
                )

    def features_from_us(self, model: Model) -> int:
        """Return the first time as of which a model's features can be computed from the events that are still kept."""
        return features_from_us(model.features, kept_from(self.state.catalog))

    def followed(self) -> bool:
        """Return whether any process applies the event log, as a service does; False if `views` was not used yet."""
        return "views" in self.__dict__ and self.views.followed()

    def close(self) -> None:
        """Close all parts, and allow other processes to apply events. A second call does nothing."""
        if self._state is None:
            return
        try:
            for served in self._served.values():
                served.flush()
            if "views" in self.__dict__:  # closed only if they were opened
                self.views.release()
        finally:
            self._state.close()
            self._state = None
            self._forget_parts()
