"""Load the definitions of a project file: its sources, views, models, deployments and experiments."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from difflib import get_close_matches
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TypeVar

import msgspec

from trimtab.core.errors import Misuse, NotFound, TrimtabError
from trimtab.events.definitions import Source
from trimtab.experiments.declaring import collect_experiments
from trimtab.experiments.definitions import Experiment, Metric
from trimtab.features.definitions import Entity, Request, View
from trimtab.features.stored import with_sources
from trimtab.steering.definitions import Deployment, collect_deployments
from trimtab.training.definitions import Model

Named = TypeVar("Named", Source, Entity, Request, View, Model, Deployment, Experiment)


class Definitions(msgspec.Struct, frozen=True):
    """The definitions of a project, by name."""

    sources: dict[str, Source]  # including the sources that record requests
    requests: dict[str, Request]
    views: dict[str, View]
    models: dict[str, Model]
    deployments: dict[str, Deployment]  # by model name
    entities: dict[str, Entity] = {}
    experiments: dict[str, Experiment] = {}

    def placed(self, place: Callable[[Source], Source]) -> Definitions:
        """Return the same definitions, in which sources have their columns in the order of stored events (`place`)."""
        sources = {name: place(source) for name, source in self.sources.items()}

        def of(source: Source) -> Source:
            return msgspec.structs.replace(sources[source.name], about=source.about)

        def model(one: Model) -> Model:
            request = msgspec.structs.replace(one.request, source=of(one.request.source))
            label = msgspec.structs.replace(one.label, source=of(one.label.source))
            features = with_sources(one.features, of)
            return msgspec.structs.replace(one, request=request, label=label, features=features)

        def metric(one: Metric) -> Metric:
            return one if one.source is None else msgspec.structs.replace(one, source=of(one.source))

        models = {name: model(one) for name, one in self.models.items()}
        replace = msgspec.structs.replace
        return Definitions(
            sources,
            {name: replace(one, source=of(one.source)) for name, one in self.requests.items()},
            {name: replace(one, source=of(one.source)) for name, one in self.views.items()},
            models,
            {name: replace(one, model=models[name]) for name, one in self.deployments.items()},
            self.entities,
            {
                name: replace(
                    one,
                    metrics=tuple(metric(each) for each in one.metrics),
                    features=tuple(
                        replace(each, view=replace(each.view, source=of(each.view.source))) for each in one.features
                    ),
                )
                for name, one in self.experiments.items()
            },
        )

    def deployment(self, name: str | None) -> Deployment:
        """Return the deployment of model `name`, or the first deployment if `name` is None.

        Raises:
            NotFound: No deployment has this name, or the project has no deployment.
        """
        if name is None and self.deployments:
            return next(iter(self.deployments.values()))
        if name is None or name not in self.deployments:
            found = ", ".join(self.deployments) or "none; add tt.deployment(model, ...) to the project file"
            raise NotFound(f"no deployment of model {name!r}. Deployments: {found}.")
        return self.deployments[name]

    def experiment(self, name: str) -> Experiment:
        """Return the experiment called `name`.

        Raises:
            NotFound: No experiment has this name.
        """
        if name not in self.experiments:
            found = ", ".join(self.experiments) or "none; add tt.experiment(...) to the project file"
            raise NotFound(f"no experiment {name!r}. Experiments: {found}.")
        return self.experiments[name]

    def source(self, name: str) -> Source:
        """Return the source called `name`.

        Raises:
            NotFound: No source has this name.
        """
        if name not in self.sources:
            raise NotFound(f"no source {name!r}. Sources: {', '.join(self.sources)}.")
        return self.sources[name]


def load_definitions(file: Path) -> Definitions:
    """Run a project file and collect the definitions that it declares.

    Raises:
        NotFound: The file does not exist.
        Misuse: The file cannot be imported (the message names the line), or it declares a name twice.
    """
    if not file.is_file():
        raise NotFound(f"{file}: not found. The project file is named by `file` under [project] in trimtab.toml.")
    deployments: list[Deployment] = []
    experiments: list[Experiment] = []
    collect_deployments(deployments)
    collect_experiments(experiments)
    try:
        module = _run(file)
    finally:
        collect_deployments(None)
        collect_experiments(None)
    return _collect(vars(module).values(), deployments, experiments, file)


class _Compiled(SourceFileLoader):
    """A loader of Python files that always compiles them.

    Otherwise, cached bytecode would be used for a file that was edited within a second and kept its size.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def _run(file: Path) -> ModuleType:
    name = f"trimtab_project_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_Compiled(name, str(file)))
    assert spec is not None  # a .py file always has a spec
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # functions in the file may look up their module there
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except TrimtabError as error:
        raise Misuse(f"{file}{_line(error, file)}: {error}") from error
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        raise Misuse(f"{file}{_line(error, file)}: {type(error).__name__}: {error}{_meant(error, module)}") from error
    finally:
        sys.path.remove(str(file.parent))
    return module


def _meant(error: BaseException, module: ModuleType) -> str:
    if not isinstance(error, (AttributeError, NameError)):
        return ""
    near: list[str] = []
    with suppress(Exception, SystemExit):  # listing names may run code of the file; no hint if it fails
        listed = vars(module) if isinstance(error, NameError) else getattr(error.obj, "__all__", None) or dir(error.obj)
        near = get_close_matches(error.name or "", listed, n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def _line(error: BaseException, file: Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f", line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    return f", line {lines[-1]}" if lines else ""


def _collect(
    values: Iterable[object], deployments: list[Deployment], experiments: list[Experiment], file: Path
) -> Definitions:
    found = Definitions({}, {}, {}, {}, {}, {}, {})

    def add(into: dict[str, Named], item: Named, kind: str) -> None:
        if into.setdefault(item.name, item) is not item and into[item.name].hash != item.hash:
            raise Misuse(f"{file}: two different {kind}s are called {item.name!r}. Rename one.")

    def add_source(source: Source) -> None:
        add(found.sources, source, "source")
        other = found.sources[source.name]
        if (other.declared_formats, other.reading) != (source.declared_formats, source.reading):
            raise Misuse(f"{file}: source {source.name!r} is declared with two ways to read its rows. Declare it once.")

    def add_view(view: View) -> None:
        add(found.views, view, "view")
        add_source(view.source)

    def add_request(request: Request) -> None:
        add(found.requests, request, "request")
        add_source(request.source)

    def add_model(model: Model) -> None:
        add(found.models, model, "model")
        add_request(model.request)
        add_source(model.label.source)
        for view in model.features.views:
            add_view(view)

    for value in values:
        if isinstance(value, Source):
            add_source(value)
        elif isinstance(value, Entity):
            add(found.entities, value, "entity")
        elif isinstance(value, Request):
            add_request(value)
        elif isinstance(value, View):
            add_view(value)
        elif isinstance(value, Model):
            add_model(value)
    for deployment in deployments:
        add(found.deployments, deployment, "deployment")
        add_model(deployment.model)
    for experiment in experiments:
        add(found.experiments, experiment, "experiment")
        for metric in experiment.metrics:
            if metric.source is not None:
                add_source(metric.source)
        for join in experiment.features:
            add_view(join.view)
        for name in experiment.models:
            _check_compared(experiment, name, found.deployments.get(name), file)
    for view in found.views.values():
        if view.source.name in found.requests:
            raise Misuse(
                f"{file}: view {view.name!r} reads the request {view.source.name!r}. Requests that are answered become "
                "no events, so online features would not see them, and those of training would. Declare a source with "
                "another name for them, and send each request to it as well."
            )
    return found


def _check_compared(experiment: Experiment, model: str, deployment: Deployment | None, file: Path) -> None:
    """Refuse an experiment over versions that are not served, or that learn from each other's requests."""
    what = f"{file}: experiment {experiment.name!r}"
    if deployment is None:
        raise Misuse(f"{what}: model {model!r} has no deployment. Add tt.deployment({model}, ...).")
    if deployment.learn == "online":
        raise Misuse(
            f'{what}: {model!r} has learn="online", so one learner takes the labels of all variants, and their '
            'difference would mean nothing. Compare versions of a model with learn="batch".'
        )
