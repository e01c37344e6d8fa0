"""Search a model's parameters in a separate process. A search can be resumed and cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec

from trimtab.app.features.project_spec import ProjectSpec, executor
from trimtab.app.state.lease import Lease
from trimtab.app.system import System
from trimtab.app.training.loops import Loops
from trimtab.app.training.searches import KIND, TRIAL, Searched, SearchRecord, searched, searches
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.hashing import content_hash
from trimtab.run import Line, Run, StepBegan, StepEnded, Task, Workplace
from trimtab.steering.candidates.stored import address_of_rows, address_of_set
from trimtab.store.ports import Put
from trimtab.training.definitions import Model
from trimtab.training.environment import current_environment
from trimtab.training.search import Search, Trial, parameters_text, with_budget

RUN = "search"


class SearchArguments(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments for the process that searches."""

    model: str
    search: Search  # the declared search, with the budget of this call
    made_by: str  # a hash of the caller's definitions; a process that reads other definitions does not search
    project: ProjectSpec


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The id of the search; None if nothing was searched, because the project file had changed."""

    search: str | None


def search_model(
    system: System,
    name: str | None,
    *,
    trials: int | None,
    time: str | int | None,
    actor: str,
    watch: Callable[[Run], object] | None,
) -> Searched:
    """Search the parameters of a model; see `Project.search`."""
    deployment = system.definitions.deployment(name)
    model = deployment.model
    if model.search is None:
        raise Misuse(
            f"search of {model.name!r}: the model declares no search. Add search=tt.search({{...}}) to tt.model, and "
            "make its estimator a function of the searched parameters."
        )
    if deployment.learn != "batch":
        raise Misuse(f'search of {model.name!r}: it learns online. A search is for models with learn="batch".')
    arguments = SearchArguments(
        model=model.name,
        search=with_budget(model.search, trials=trials, time=time),
        made_by=_made_by(system, model),
        project=ProjectSpec.of(system.config, system.state_folder),
    )
    lease = Lease(system.state.catalog, f"search.{model.name}", system.state_folder)
    otherwise = f"search of {model.name!r}: another process is running it. See: trimtab runs --model {model.name}"
    with lease.taken(otherwise), system.recorded.track(RUN, model.name, actor=actor) as run:
        run.begin()

        def hear(event: Any) -> None:
            run.record(event)
            if watch is not None:
                watch(run.run)

        with closing(executor(system.config.training, system.clock, {"project": system})) as place:
            about = f"search of model {model.name!r}"
            native = "the estimator's library"
            task = Task(f"{__name__}:work", msgspec.msgpack.encode(arguments), about=about, native=native)
            done = msgspec.msgpack.decode(place.run(task, on_event=hear, cancelled=run.cancelled), type=SearchResult)
        if done.search is None:
            raise Conflict(
                f"search of {model.name!r}: the project file was changed after this process read it. Open the "
                "project again."
            )
        found = searched(system.state.catalog, _record(system, model.name, done.search))
        best = found.search.best
        assert best is not None  # a finished search has a best trial
        run.end(
            f"{len(found.trials)} trials; the best: {found.search.metric} {best.value:.4f} with "
            f"{parameters_text(best.values)}."
        )
        return found


def work(argument: bytes, place: Workplace) -> bytes:
    """Carry out a search. If this process has no open project to use, open one."""
    arguments = msgspec.msgpack.decode(argument, type=SearchArguments)
    system: System = place.keep("project", lambda stack: stack.enter_context(arguments.project.open()))
    model = msgspec.structs.replace(system.definitions.deployment(arguments.model).model, search=arguments.search)
    if _made_by(system, model) != arguments.made_by:
        return msgspec.msgpack.encode(SearchResult(search=None))
    return msgspec.msgpack.encode(SearchResult(search=_search(system, model, arguments, place)))


def _search(system: System, model: Model, arguments: SearchArguments, place: Workplace) -> str:
    from trimtab.training.fitting.search_trials import best_trial, run_trials  # here, because only searches need it

    catalog = system.state.catalog
    place.emit(StepBegan("snapshot", None))
    system.asked_history.refresh()
    before = [one for one in searches(catalog, model.name) if one.made_by == arguments.made_by and one.ended_us is None]
    # the data of the newest interrupted search are tried first; if they are unchanged, that search is continued
    for cut_us in [*(one.cut_us for one in before[-1:]), system.clock.now_us()]:
        training_set, rows, until_us = system.part(Loops).loop(model.name).searchable(cut_us)
        address = content_hash([arguments.made_by, address_of_set(training_set), address_of_rows(rows)])
        if any(one.id == address for one in before):
            break
    place.emit(StepEnded("snapshot", cached=False, attempts=1))
    there = catalog.get(KIND, f"{model.name}/{address}")
    record = SearchRecord(
        id=address,
        model=model.name,
        metric=str(model.metric),
        made_by=arguments.made_by,
        search=arguments.search,
        cut_us=training_set.manifest.cut_us,
        until_us=until_us,
        rows=int(rows.sum()),
        began_us=system.clock.now_us(),
        ended_us=None if there is None else _decoded(there.body).ended_us,
        best=None if there is None else _decoded(there.body).best,  # the best trial so far
    )
    _write(system, record)
    place.emit(StepBegan("trials", None))
    trials = list(searched(catalog, record).trials)
    if trials:
        place.emit(Line(f"{len(trials)} trials are finished already"))

    def keep(trial: Trial) -> None:
        body = msgspec.json.encode(trial)
        catalog.write([Put(TRIAL, f"{address}/{trial.number:06d}", body, expected=0)])
        trials.append(trial)
        best = best_trial(trials)
        mark = " (the best so far)" if best is trial else ""
        said = f"{record.metric} {trial.value:.4f}" if trial.value is not None else trial.error
        place.emit(Line(f"trial {trial.number} {trial.state}: {said}{mark}, {parameters_text(trial.values)}"))

    found = run_trials(
        model,
        training_set,
        rows,
        tuple(trials),
        seed=system.config.seed,
        threads=system.config.training.threads,
        keep=keep,
        progress=lambda share: place.progress(share, 1.0),
        timer=time.monotonic,
    )
    best = best_trial(found)
    _write(system, msgspec.structs.replace(record, ended_us=system.clock.now_us(), best=best))
    place.emit(StepEnded("trials", cached=False, attempts=1))
    return address


def _made_by(system: System, model: Model) -> str:
    """Return a hash of everything that a search depends on, except its data and budget."""
    assert model.search is not None  # the model declares a search, as the caller has checked
    where = msgspec.to_builtins(current_environment())
    return content_hash([model.hash, model.search.hash, system.config.seed, system.config.training.threads, where])


def _record(system: System, model: str, address: str) -> SearchRecord:
    record = system.state.catalog.get(KIND, f"{model}/{address}")
    assert record is not None  # the record was written above
    return _decoded(record.body)


def _decoded(body: bytes) -> SearchRecord:
    return msgspec.json.decode(body, type=SearchRecord)


def _write(system: System, record: SearchRecord) -> None:
    system.state.catalog.write([Put(KIND, f"{record.model}/{record.id}", msgspec.json.encode(record))])
