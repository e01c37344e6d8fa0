"""Answer requests of the Open Inference Protocol, independently of HTTP and gRPC."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version as installed
from time import perf_counter
from typing import Any, Literal, TypeAlias

import msgspec

from trimtab.core.errors import Misuse, NotFound
from trimtab.core.records import Prediction
from trimtab.serving.answer.answering import Answerer
from trimtab.serving.answer.request_rows import Row
from trimtab.serving.answer.served import Answer, ServedVersion
from trimtab.serving.arms.endpoint import Prepared
from trimtab.serving.http.predict.parts import Parts
from trimtab.serving.http.predict.predicting import Predictor, is_late
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
    "models: all deployed models are loaded already; to change the version of one, use trimtab promote or trimtab "
    "rollback."
)
INLINE_BYTES = 64 << 10  # larger messages are read, written and compressed in a thread
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
    size_bytes: int = 0  # the size of the message in bytes


class Inferred(msgspec.Struct, frozen=True, gc=False):
    """Predictions, with the version that made them and the requested outputs in order."""

    model: str
    version: str
    id: str
    parameters: Mapping[str, Parameter]
    outputs: Sequence[OutputTensor]
    late: bool = False  # whether these are fallback answers, because the predictions were late


class InferenceService:
    """Implements the protocol for the models of a service, independently of HTTP and gRPC.

    Args:
        not_ready: Returns why the service is not ready to answer, or None if it is.
    """

    def __init__(
        self,
        predictors: Mapping[str, Predictor],
        parts: Parts,
        not_ready: Callable[[], Awaitable[str | None]],
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
        # an unloaded version counts as ready; do not load it here
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
            own = self._statistics_of(served)
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
                out.append(ModelIndex(endpoint.name, "", "UNAVAILABLE", "no version is in service yet"))
        return out

    def check_room(self, model: str = "", *, counted: bool = False) -> None:
        """Raise `Refused` (429) if more predict requests are in flight than can be answered soon.

        With `counted`, this is the last check of a request, and the scheduler counts its refusal.
        """
        scheduler = self.parts.scheduler
        if scheduler.full() if counted else scheduler.under_way >= scheduler.limit.limit:
            # before it has read the message, gRPC does not know the name of the model
            if (predictor := self._predictors.get(model)) is not None:
                predictor.endpoint.count_refused()
            raise Refused(429, "Too many predictions are in flight. Send the request again soon.")

    async def refusal_turn(self) -> None:
        """Wait until it is the turn of a refusal to be sent."""
        await self.parts.scheduler.refusals.turn()

    # -- answers --------------------------------------------------------------------------------------------------

    async def infer(self, request: Infer, started: float, timeout_s: float | None = None) -> Inferred:
        """Return predictions for a request, once they are safely logged.

        Args:
            started: The time (`perf_counter`) when the request began to arrive.
            timeout_s: The time limit in seconds, counted from `started`. The parameter `timeout` of the request may
                shorten it.

        Raises:
            Misuse: A tensor, an output or a parameter is invalid. The message names it.
            NotFound: The model does not exist, or another version is deployed.
            Refused: Too many requests are in flight (429), or there are too many rows (413).
            Unavailable: No version is deployed, or the online features or the log cannot be used now. After the time
                limit, the error is `Late`.
        """
        predictor, scheduler = self.predictor(request.model), self.parts.scheduler
        self.check_room(request.model, counted=True)
        read_s = await scheduler.turn()
        begun_s = perf_counter()
        try:
            answerer = predictor.endpoint.loaded or await predictor.loaded(
                started, _sooner(timeout_s, request.parameters)
            )
            _check_version(answerer, request.version)
            return await self._inferred(predictor, answerer, request, started, timeout_s)
        finally:
            scheduler.under_way -= 1
            scheduler.answered(read_s, begun_s, waited=True)

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

    async def _inferred(
        self, predictor: Predictor, answerer: Answerer, request: Infer, started: float, timeout_s: float | None
    ) -> Inferred:
        begun, statistics = perf_counter(), self._statistics_of(answerer.served)
        try:
            return await self._outputs_of(predictor, answerer, request, statistics, (started, begun), timeout_s)
        except Exception:
            statistics.failed(perf_counter() - begun)
            raise

    async def _outputs_of(
        self,
        predictor: Predictor,
        answerer: Answerer,
        request: Infer,
        statistics: ModelStatistics,
        times: tuple[float, float],
        timeout_s: float | None,
    ) -> Inferred:
        started, begun = times
        check_parameters(request.parameters)
        wanted = _wanted(answerer, request.outputs)
        at_us, soon_s = _as_of_us(request.parameters), _sooner(timeout_s, request.parameters)
        # first, because this limits the work of the following checks
        check_names(request.inputs, answerer.rows, answerer.served.inputs)
        count = checked_count(request.inputs, self.parts.limits.rows)
        rows: list[Row]
        arguments = request.inputs, count, answerer.rows, request.parameters
        if count > self.parts.limits.rows_inline or request.size_bytes > INLINE_BYTES:
            rows = await predictor.read(started, soon_s, rows_of, *arguments)
        else:
            rows = rows_of(*arguments)
        decoded = perf_counter()
        prepared = await predictor.answer_rows(answerer, rows, at_us, started, soon_s)
        inferred, late = perf_counter(), is_late(prepared)
        if count > self.parts.limits.rows_inline:
            outputs = await predictor.finish(late, _outputs, predictor, answerer, prepared, wanted)
        else:
            outputs = _outputs(predictor, answerer, prepared, wanted)
        statistics.answered(count, begun, decoded, inferred, perf_counter())
        return Inferred(request.model, statistics.version, request.id, _echoed(request.parameters), outputs, late)

    async def _serving(self, model: str, version: str) -> tuple[Predictor, Answerer]:
        predictor = self.predictor(model)
        answerer = predictor.endpoint.loaded or await predictor.loading.answerer()
        _check_version(answerer, version)
        return predictor, answerer

    def _statistics_of(self, served: ServedVersion) -> ModelStatistics:
        key = served.model, version_number(served)
        statistics = self._statistics.get(key)
        if statistics is None:
            statistics = self._statistics[key] = ModelStatistics(*key)
        return statistics


def _check_version(answerer: Answerer, version: str) -> None:
    number = version_number(answerer.served)
    if version not in ("", number):
        raise NotFound(
            f"model {answerer.served.model!r}: version {version[:60]!r} is not in service; {number!r} is. Leave the "
            "version out for the one in service."
        )


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise `Misuse` for parameters that are not single values, or not supported although they change the result."""
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


def _sooner(timeout_s: float | None, parameters: Mapping[str, Any]) -> float | None:
    """Return the shorter of `timeout_s` and the parameter `timeout`, in seconds. None: there is no limit."""
    timeout_us = parameters.get(_TIMEOUT) or None
    if timeout_us is None:
        return timeout_s
    if type(timeout_us) is not int or timeout_us < 0:
        raise Misuse(f"parameter {_TIMEOUT!r}: {str(timeout_us)[:60]}. Give microseconds, a whole number above 0.")
    own_s = min(timeout_us, _LONGEST_US) / 1e6
    return own_s if timeout_s is None else min(timeout_s, own_s)


def _as_of_us(parameters: Mapping[str, Any]) -> int | None:
    if (at := parameters.get(_AT)) is None:
        return None
    from trimtab.events.values.checks import given_time_us

    return given_time_us(at, f"parameter {_AT!r}")


def _wanted(answerer: Answerer, names: Sequence[str]) -> tuple[TensorMetadata, ...]:
    """Return the descriptions of the requested outputs."""
    described = described_outputs(answerer.served)
    if not names:
        return described
    by_name = {one.name: one for one in described}
    for name in names:
        if name not in by_name:
            raise Misuse(f"output {name[:60]!r}: unknown. The outputs are {', '.join(by_name)}.")
    return tuple(by_name[name] for name in dict.fromkeys(names))


def _outputs(
    predictor: Predictor, answerer: Answerer, prepared: Sequence[Prepared], wanted: Sequence[TensorMetadata]
) -> list[OutputTensor]:
    endpoint = predictor.endpoint
    answers = [
        endpoint.shown(answerer, one) if isinstance(one, Prediction) else msgspec.json.decode(one, type=Answer)
        for one in prepared
    ]
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
