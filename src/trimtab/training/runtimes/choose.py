"""The runtime of an estimator, or of a stored version."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal

from trimtab.core.errors import Misuse, NotFound, Unavailable
from trimtab.training.runtimes.estimators import OnnxEstimator, TorchEstimator
from trimtab.training.runtimes.ports import Runtime, Trust

RuntimeName = Literal["lightgbm", "xgboost", "catboost", "river", "onnx", "torch", "sklearn", "pickle"]
# In the order in which they are asked: XGBoost's and LightGBM's estimators are scikit-learn's too.
_LIBRARIES: tuple[RuntimeName, ...] = ("lightgbm", "xgboost", "catboost", "river", "onnx", "torch", "sklearn")

_BOOSTERS = ("lightgbm", "xgboost", "catboost")  # in a folder of their own

# Which extra brings what is imported; scikit-learn comes with trimtab.
_EXTRAS: dict[str, str] = {
    **{name: name for name in _LIBRARIES if name != "sklearn"},
    "onnxruntime": "onnx",
    "skl2onnx": "onnx",
}


def runtime_for(estimator: Any, *, trust: Trust | None = None) -> Runtime:
    """The runtime that fits and saves `estimator`.

    Raises:
        Misuse: None does without code that runs at load, and `trust` does not allow that.
    """
    tops = {kind.__module__.partition(".")[0] for kind in type(estimator).__mro__}
    if isinstance(estimator, OnnxEstimator):
        tops = {"onnx"}
    if isinstance(estimator, TorchEstimator):
        tops = {"torch"}
    for name in _LIBRARIES:
        if name in tops:
            runtime = runtime_named(name)
            if runtime.handles(estimator):
                return runtime
    if trust == "pickle":
        return runtime_named("pickle")
    raise Misuse(
        f"estimator {type(estimator).__module__}.{type(estimator).__qualname__}: no safe format stores it "
        f"({', '.join(_LIBRARIES)} do theirs). Use one of those, or accept code that runs at load with "
        'trust="pickle", which is recorded on the version.'
    )


def runtime_named(name: str) -> Runtime:
    """The runtime that a version names.

    Raises:
        NotFound: There is none of that name.
        Misuse: Its library is not installed.
        Unavailable: Its library cannot be loaded by this machine.
    """
    if name == "pickle":
        from trimtab.training.runtimes.pickled import PickleRuntime

        return PickleRuntime()
    if name not in _LIBRARIES:
        raise NotFound(f"runtime {name!r}: there are {', '.join(_LIBRARIES)} and pickle.")
    try:
        folder = "boosters." if name in _BOOSTERS else ""
        runtime: Runtime = import_module(f"trimtab.training.runtimes.{folder}{name}").RUNTIME
    except (ImportError, OSError) as error:
        raise missing_library(name, error) from error
    return runtime


def missing_library(name: str, error: ImportError | OSError) -> Misuse | Unavailable:
    """What to tell somebody whose library did not load."""
    if "libgomp" in str(error):
        return Unavailable(
            f"runtime {name}: the system's OpenMP library is missing ({error}). apt-get install libgomp1"
        )
    if isinstance(error, ModuleNotFoundError):
        absent = error.name or name
        extra = _EXTRAS.get(name, _EXTRAS.get(absent.partition(".")[0]))
        if extra is None:
            return Misuse(
                f"library {absent}: it is not installed. pip install the distribution that has "
                f"{absent.partition('.')[0]!r}"
            )
        return Misuse(f'runtime {extra}: {absent} is not installed. pip install "trimtab[{extra}]"')
    return Unavailable(f"runtime {name}: its library does not load on this machine: {error}")
