"""Answer requests of the Open Inference Protocol, independently of HTTP and gRPC."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version as installed
from typing import Any, Literal, TypeAlias

import msgspec

from trimtab.core.errors import Misuse, NotFound
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.request_rows import RequestBody, Row
from trimtab.serving.answer.served import Answer, ServedVersion
from trimtab.serving.arms.endpoint import Answered, Endpoint
from trimtab.serving.http.predict.parts import Parts
from trimtab.serving.http.predict.predicting import Predictor
from trimtab.serving.inference.described import (
    FLAGS,
    ID,
    PREDICTION,
    REASONS,
    SCORE,
    VERSION,
    ModelConfig,
    ModelIndex,
    ModelMetadata,
    ServerMetadata,
    TensorMetadata,
    config,
    described_outputs,
    metadata,
    version_number,
)
from trimtab.serving.inference.request_columns import check_names, checked_count, rows_of
from trimtab.serving.inference.statistics import ModelStatistics, show_statistics, statistics_told
from trimtab.serving.inference.tensors import InputTensor, OutputTensor
from trimtab.serving.problems import Refused

Parameter: TypeAlias = bool | int | float | str
State: TypeAlias = Literal["READY", "UNAVAILABLE"]
NO_LOADING = (
    "models: the service itself loads all deployed models; to change the version of one, use trimtab promote or "
    "trimtab rollback."
)
_TIMEOUT = "timeout"  # the parameter with the time limit in microseconds
_LONGEST_US = 600_000_000  # the longest allowed time limit
_AT = "at"  # the parameter with a time in the past as of which to answer
_REFUSED = {  # parameters that are refused, because ignoring them would change the meaning of the request
    "sequence_id": "requests are independent. Leave sequences out",
    "shared_memory_region": "shared memory is not supported. Send the tensor in the request",
    "classification": "classes are not ranked. Request `score` and `prediction`",
}
_SINGLE = frozenset((bool, int, float, str))
_encode = msgspec.json.Encoder().encode


class Infer(msgspec.Struct, frozen=True, gc=False):
    """A request for predictions, in the form that HTTP and gRPC share."""

    model: str
    version: str  # if empty, the deployed version answers
    id: str
    parameters: Mapping[str, Parameter]
    inputs: Sequence[InputTensor]
    outputs: Sequence[str]  # the names of the requested outputs; if empty, all outputs are sent


class InferBody(RequestBody, frozen=True, gc=False):
    """A decoded request: its rows, and what its response needs."""

    id: str = ""
    parameters: Mapping[str, Parameter] = {}  # those to send back
    wanted: tuple[TensorMetadata, ...] = ()  # the requested outputs
    form: Any = None  # over HTTP: which outputs to send in binary form (a `Binary`); None: none


class Inferred(msgspec.Struct, frozen=True, gc=False):
    """Predictions, with the version that made them and the requested outputs in order."""

    model: str
    version: str
    id: str
    parameters: Mapping[str, Parameter]
    outputs: Sequence[OutputTensor]


class InferForm:
    """Requests to one model, and their responses, in the form that HTTP and gRPC share.

    Args:
        version: The version in the URL, or "".
    """

    route = "inference"

    def __init__(self, service: InferenceService, predictor: Predictor, version: str = "") -> None:
        name = predictor.endpoint.name
        self.path = f"/v2/models/{name}/infer" if not version else f"/v2/models/{name}/versions/{version}/infer"
        self.model, self.version = name, version
        self._service = service
        self._predictor = predictor

    def checked(self, answerer: Answerer, request: Infer) -> InferBody:
        """Return the rows of a request.

        Raises:
            Misuse: A tensor, an output or a parameter is invalid. The message names it.
            NotFound: Another version is deployed.
            Refused: There are too many rows (413).
        """
        check_version(answerer, request.version)
        parameters, inputs, rows = request.parameters, request.inputs, answerer.rows
        check_parameters(parameters)
        wanted = wanted_outputs(answerer, tuple(request.outputs))
        # first, because it refuses unknown and repeated names, so that few tensors are left to check
        check_names(inputs, rows, answerer.served.inputs)
        count = checked_count(inputs, self._service.parts.limits.rows)
        return InferBody(
            rows_of(inputs, count, rows, parameters), True, _as_of_us(parameters), _limit_s(parameters),
            id=request.id, parameters=_echoed(parameters), wanted=wanted,
        )  # fmt: skip

    def quick(self, answerer: Answerer, row: Row, request_id: str, outputs: tuple[str, ...]) -> InferBody | None:
        """Return a request with a single row of plain values, or None if the row needs the full checks."""
        checked = answerer.rows.plain(row)
        if checked is None:
            return None
        check_version(answerer, self.version)
        return InferBody([checked], True, None, id=request_id, wanted=wanted_outputs(answerer, outputs))

    def inferred(self, answerer: Answerer, request: InferBody, prepared: Sequence[Answered]) -> Inferred:
        """Return a response: the requested outputs of these answers."""
        outputs = _outputs(self._predictor.endpoint, answerer, prepared, request.wanted)
        return Inferred(self.model, version_number(answerer.served), request.id, request.parameters, outputs)

    def answered(self, answerer: Answerer, rows: int, times: tuple[float, ...]) -> None:
        _, received, decoded, _, logged, ended = times
        self._service.statistics_of(answerer.served).answered(rows, received, decoded, logged, ended)

    def failed(self, seconds: float) -> None:
        if (served := self._predictor.endpoint.serving) is not None:
            self._service.statistics_of(served).failed(seconds)


class InferenceService:
    """Implements the protocol for the models of a service, independently of HTTP and gRPC.

    Args:
        not_ready: Returns why the service is not ready to answer, or None if it is.
    """

    def __init__(
        self, predictors: Mapping[str, Predictor], parts: Parts, not_ready: Callable[[], Awaitable[str | None]]
    ) -> None:
        self.parts = parts
        self.not_ready = not_ready
        self._predictors = predictors
        self._statistics: dict[tuple[str, str], ModelStatistics] = {}
        show_statistics(parts.metrics, lambda: list(self._statistics.values()))

    # -- descriptions --------------------------------------------------------------------------------------------

    def server_metadata(self) -> ServerMetadata:
        """Return the name, version and extensions of this server."""
        return ServerMetadata("trimtab", installed("trimtab"))

    async def model_ready(self, model: str, version: str = "") -> bool:
        """Return whether a model can answer, with the given version if one is given.

        Raises:
            NotFound: The model does not exist, or another version is deployed.
        """
        if not self.predictor(model).endpoint.ready:
            return False
        # an unloaded version counts as ready; it is only loaded here if its number must be compared with `version`
        if version or not self.predictor(model).endpoint.unloaded:
            await self._serving(model, version)
        return True

    async def metadata(self, model: str, version: str = "") -> ModelMetadata:
        """Return the inputs and outputs of a model.

        Raises:
            NotFound: The model does not exist, or another version is deployed.
            Unavailable: No version is deployed yet.
        """
        answerer = (await self._serving(model, version))[1]
        return metadata(answerer.served, answerer.rows.request)

    async def config(self, model: str, version: str = "") -> ModelConfig:
        """Return the configuration of a model. Raises the same errors as `metadata`."""
        answerer = (await self._serving(model, version))[1]
        return config(answerer.served, answerer.rows.request)

    async def statistics(self, model: str = "", version: str = "") -> list[ModelStatistics]:
        """Return statistics of the deployed versions of one model or all models, summed over all processes.

        The counts of other processes are about one second old. Raises the same errors as `metadata`.
        """
        if model:
            served_versions = [(await self._serving(model, version))[1].served]
        else:
            serving = (one.endpoint.serving for one in self._predictors.values())
            served_versions = [served for served in serving if served is not None]
        others = await self.parts.threads.look(lambda: statistics_told(self.parts.metrics.others()))
        out = []
        for served in served_versions:
            own = self.statistics_of(served)
            theirs = others.get((own.name, own.version))
            out.append(own if theirs is None else own.plus(theirs))
        return out

    def index(self, *, ready: bool = False) -> list[ModelIndex]:
        """Return one entry for each model. With `ready`, return only the models that can answer."""
        out = []
        for predictor in self._predictors.values():
            endpoint = predictor.endpoint
            if endpoint.serving is not None:
                out.append(ModelIndex(endpoint.name, version_number(endpoint.serving), "READY", ""))
            elif endpoint.ready:
                out.append(ModelIndex(endpoint.name, "", "READY", "the next request loads it"))
            elif not ready:
                out.append(ModelIndex(endpoint.name, "", "UNAVAILABLE", endpoint.missing.removesuffix(".")))
        return out

    def check_room(self, model: str = "") -> None:
        """Raise `Refused` (429) if more predict requests are in flight than can be answered soon."""
        if self.parts.scheduler.full():
            # before it has read a large message, gRPC does not know the name of the model
            if (predictor := self._predictors.get(model)) is not None:
                predictor.endpoint.count_refused()
            raise Refused(429, "Too many predictions are in flight. Send the request again soon.")

    async def refusal_turn(self) -> None:
        """Wait until the calling task may send its refusal (see `Refusals`)."""
        await self.parts.scheduler.refusals.turn()

    def predictor(self, model: str) -> Predictor:
        """Return the predictor of a model.

        Raises:
            NotFound: The model does not exist.
        """
        predictor = self._predictors.get(model)
        if predictor is None:
            names = ", ".join(sorted(self._predictors)) or "none"
            raise NotFound(f"model {model[:60]!r}: no such model is served here. Models served here: {names}.")
        return predictor

    async def _serving(self, model: str, version: str) -> tuple[Predictor, Answerer]:
        predictor = self.predictor(model)
        answerer = predictor.endpoint.loaded or await predictor.loading.answerer()
        check_version(answerer, version)
        return predictor, answerer

    def statistics_of(self, served: ServedVersion) -> ModelStatistics:
        """Return the statistics of a version in this process."""
        key = served.model, version_number(served)
        statistics = self._statistics.get(key)
        if statistics is None:
            statistics = self._statistics[key] = ModelStatistics(*key)
        return statistics


def check_version(answerer: Answerer, version: str) -> None:
    """Raise `NotFound` if the requested version is not in service."""
    number = version_number(answerer.served)
    if version not in ("", number):
        raise NotFound(
            f"model {answerer.served.model!r}: version {version[:60]!r} is not in service; {number!r} is. Leave the "
            "version out for the one in service."
        )


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise `Misuse` for parameters that are not single values, or would change the result but are not supported."""
    for name, value in parameters.items():
        if type(value) not in _SINGLE:
            raise Misuse(f"parameter {name[:60]!r} is a {type(value).__name__}. Give a text, a number, true or false.")
        if value and name in _REFUSED:
            raise Misuse(f"parameter {name!r}: {_REFUSED[name]}.")


def _echoed(parameters: Mapping[str, Parameter]) -> Mapping[str, Parameter]:
    """Return the parameters to send back to the client: all but the one that selects the form of the response."""
    if not parameters:
        return parameters
    return {name: value for name, value in parameters.items() if name != "binary_data_output"}


def _limit_s(parameters: Mapping[str, Any]) -> float | None:
    """Return the parameter `timeout` in seconds, at most 600. None: there is no limit."""
    timeout_us = parameters.get(_TIMEOUT) or None
    if timeout_us is None:
        return None
    if type(timeout_us) is not int or timeout_us < 0:
        raise Misuse(f"parameter {_TIMEOUT!r}: {str(timeout_us)[:60]}. Give microseconds, a whole number above 0.")
    return min(timeout_us, _LONGEST_US) / 1e6


def _as_of_us(parameters: Mapping[str, Any]) -> int | None:
    if (at := parameters.get(_AT)) is None:
        return None
    from trimtab.events.values.checks import given_time_us

    return given_time_us(at, f"parameter {_AT!r}")


def wanted_outputs(answerer: Answerer, names: tuple[str, ...]) -> tuple[TensorMetadata, ...]:
    """Return the descriptions of the requested outputs; without names, of all."""
    described = described_outputs(len(answerer.served.classes))
    if not names:
        return described
    by_name = {one.name: one for one in described}
    for name in names:
        if name not in by_name:
            raise Misuse(f"output {name[:60]!r}: unknown. The outputs are {', '.join(by_name)}.")
    return tuple(by_name[name] for name in dict.fromkeys(names))


def _outputs(
    endpoint: Endpoint, answerer: Answerer, prepared: Sequence[Answered], wanted: Sequence[TensorMetadata]
) -> list[OutputTensor]:
    answers = endpoint.all_shown(answerer, prepared)
    out = []
    for tensor in wanted:
        values: list[Any]
        if tensor.name == SCORE and len(tensor.shape) == 2:
            classes = answerer.served.classes
            values = [(one.scores or {}).get(name, math.nan) for one in answers for name in classes]
        else:
            values = [*map(_VALUES[tensor.name], answers)]
        out.append(OutputTensor(tensor.name, tensor.datatype, (len(answers), *tensor.shape[1:]), values))
    return out


_VALUES: dict[str, Callable[[Answer], Any]] = {
    SCORE: lambda one: one.score,
    PREDICTION: lambda one: one.prediction or "",
    ID: lambda one: one.id,
    VERSION: lambda one: one.version,
    REASONS: lambda one: _encode(one.reasons).decode() if one.reasons else "",
    FLAGS: lambda one: ",".join(one.flags),
}
