"""The table of model runtimes: one row for each library. Reading it does not load a library."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec

from trimtab.core.errors import Misuse, NotFound, Unavailable
from trimtab.training.runtimes.ports import Runtime, Trust

_HERE = "trimtab.training.runtimes."


class RuntimeRow(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a runtime that are needed before its library is loaded. `RUNTIME` has everything else."""

    name: str  # the name that versions record
    module: str  # the module that defines the runtime's `RUNTIME`
    library: str  # the module that must be installed
    # the package of its estimators, or the full name of their class; "": the runtime is only chosen by `trust`
    estimators: str = ""
    reader: str = ""  # the module that reads model files; "": `library`
    packages: dict[str, str]  # the modules that read stored bytes, each with the package that contains it
    extra_modules: tuple[str, ...] = ()  # other modules in `pip install trimtab[NAME]`; NAME is the runtime's name
    has_extra: bool = True  # False: the library is installed together with trimtab
    file_format: str = ""  # the name of the format of its model files; "": the name of the runtime
    endings: tuple[str, ...] = ()  # endings of the model files that can be imported
    file_kind: str = ""  # the format in words, for records of imports
    by_rows: bool = False  # whether some models score a batch row by row, which is slow
    user_code: bool = False  # whether scores come from code of the user
    pickles_parts: bool = False  # whether an estimator may have parts that only pickle can store
    # reading a model file from outside may take this much memory plus 32 times the file's size; None: no limit
    memory_bytes: int | None = None

    @property
    def format(self) -> str:
        """The name of the format of the runtime's model files."""
        return self.file_format or self.name


# The first row that fits an estimator counts. So LightGBM and XGBoost come before scikit-learn, whose classes their
# estimators extend.
ROWS = (
    RuntimeRow(
        name="lightgbm",
        module=f"{_HERE}boosters.lightgbm",
        library="lightgbm",
        estimators="lightgbm",
        reader=f"{_HERE}boosters.lightgbm_booster",
        packages={"lightgbm": "lightgbm", "scipy": "scipy"},
        endings=(".txt", ".lgb"),
        file_kind="LightGBM text",
        memory_bytes=64 << 20,
    ),
    RuntimeRow(
        name="xgboost",
        module=f"{_HERE}boosters.xgboost",
        library="xgboost",
        estimators="xgboost",
        packages={"xgboost": "xgboost"},
        endings=(".json", ".ubj"),
        file_kind="XGBoost",
        memory_bytes=64 << 20,
    ),
    RuntimeRow(
        name="catboost",
        module=f"{_HERE}boosters.catboost",
        library="catboost",
        estimators="catboost",
        packages={"catboost": "catboost"},
        endings=(".cbm", ".cb"),
        file_kind="CatBoost",
        memory_bytes=64 << 20,
    ),
    RuntimeRow(
        name="river",
        module=f"{_HERE}river",
        library="river",
        estimators="river",
        packages={"river": "river", "sklearn": "scikit-learn", "skops": "skops"},
        by_rows=True,
    ),
    RuntimeRow(
        name="onnx",
        module=f"{_HERE}onnx",
        library="onnxruntime",
        estimators=f"{_HERE}estimators.OnnxEstimator",
        packages={"onnxruntime": "onnxruntime"},
        extra_modules=("skl2onnx",),
        endings=(".onnx",),
        file_kind="ONNX",
        memory_bytes=64 << 20,
    ),
    RuntimeRow(
        name="torch",
        module=f"{_HERE}torch",
        library="torch",
        estimators=f"{_HERE}estimators.TorchEstimator",
        packages={"torch": "torch"},
        user_code=True,
    ),
    RuntimeRow(
        name="sklearn",
        module=f"{_HERE}sklearn",
        library="sklearn",
        estimators="sklearn",
        packages={"sklearn": "scikit-learn", "skops": "skops"},
        has_extra=False,
        file_format="skops",
        endings=(".skops",),
        file_kind="skops",
        pickles_parts=True,
        memory_bytes=1 << 30,
    ),
    RuntimeRow(
        name="pickle",
        module=f"{_HERE}pickled",
        library="pickle",
        packages={"sklearn": "scikit-learn", "numpy": "numpy"},
        has_extra=False,
        endings=(".pkl", ".pickle"),
        file_kind="pickle",
        by_rows=True,
        user_code=True,
    ),
)
_BY_NAME = {row.name: row for row in ROWS}
_SAFE = ", ".join(row.name for row in ROWS if row.estimators)


def runtime_row(name: str) -> RuntimeRow:
    """Return the row of a runtime.

    Raises:
        NotFound: There is no runtime of this name.
    """
    if name not in _BY_NAME:
        raise NotFound(f"runtime {name!r}: not found. There are {_SAFE} and pickle.")
    return _BY_NAME[name]


def runtime_for(estimator: Any, *, trust: Trust | None = None) -> Runtime:
    """Return the runtime that fits and stores `estimator`.

    Raises:
        Misuse: Only pickle can store the estimator, and `trust` does not allow that. (Loading a pickle runs code.)
    """
    kinds = type(estimator).__mro__
    names = {kind.__module__.partition(".")[0] for kind in kinds} | {f"{k.__module__}.{k.__qualname__}" for k in kinds}
    for row in ROWS:
        if row.estimators in names:
            runtime = runtime_named(row.name)
            if runtime.handles(estimator):
                return runtime
    if trust == "pickle":
        return runtime_named("pickle")
    raise Misuse(
        f"estimator {type(estimator).__module__}.{type(estimator).__qualname__}: no safe format can store it. Use an "
        f'estimator of {_SAFE}, or give trust="pickle": then loading the version runs code, and the version '
        "records that."
    )


def runtime_named(name: str) -> Runtime:
    """Return the runtime with a name that a version records.

    Raises:
        NotFound: There is no runtime of this name.
        Misuse: The runtime's library is not installed.
        Unavailable: The runtime's library cannot be loaded on this machine.
    """
    row = runtime_row(name)
    try:
        if find_spec(row.library) is None:
            raise ModuleNotFoundError(f"No module named {row.library!r}", name=row.library)
        runtime: Runtime = import_module(row.module).RUNTIME
    except (ImportError, OSError) as error:
        raise missing_library(name, error) from error
    return runtime


def missing_library(name: str, error: ImportError | OSError) -> Misuse | Unavailable:
    """Return the error for a library that could not be loaded. Its message says what to install."""
    if "libgomp" in str(error):
        return Unavailable(
            f"runtime {name}: the system's OpenMP library is missing ({error}). apt-get install libgomp1"
        )
    if isinstance(error, ModuleNotFoundError):
        absent = error.name or name
        extra = _extra_of(name) or _extra_of(absent.partition(".")[0])
        if extra is None:
            return Misuse(
                f"library {absent}: it is not installed. Install the package that provides "
                f"{absent.partition('.')[0]!r} with pip"
            )
        return Misuse(f'runtime {extra}: {absent} is not installed. pip install "trimtab[{extra}]"')
    return Unavailable(f"runtime {name}: its library does not load on this machine: {error}")


def _extra_of(module: str) -> str | None:
    """Return the name of the extra that installs a runtime, or a module."""
    found = (row.name for row in ROWS if row.has_extra and module in (row.name, row.library, *row.extra_modules))
    return next(found, None)
