"""What a library finds in a model file of elsewhere: done in a process of its own, which damaged bytes may end."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt, Misuse
from trimtab.run import Workplace
from trimtab.training.runtimes.choose import runtime_named
from trimtab.training.runtimes.ports import Scorer

_MEMORY = {  # what is loaded before, and bytes of memory besides 32 times the size of a file; pickles load anything
    "lightgbm": (("lightgbm", "trimtab.training.runtimes.boosters.lightgbm"), 64 << 20),
    "xgboost": (("xgboost", "trimtab.training.runtimes.boosters.xgboost"), 64 << 20),
    "catboost": (("catboost", "trimtab.training.runtimes.boosters.catboost"), 64 << 20),
    "onnx": (("onnxruntime", "trimtab.training.runtimes.onnx"), 64 << 20),
    "skops": (("trimtab.training.runtimes.sklearn",), 1 << 30),
    "sklearn": (("trimtab.training.runtimes.sklearn",), 1 << 30),
}
_MOST_SCORES = 10_000  # of a row: one a class
_OUT_OF_MEMORY = ("bad_alloc", "allocate memory", "out of memory")
_NUMBERS = re.compile(r"tensor\((bool|float|float16|double|u?int\d+)\)")


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What to look into."""

    format: str
    data: bytes
    probability: bool  # whether its model is to give chances
    names: tuple[str, ...]  # the features of its model


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    runtime: str
    data: bytes  # as the runtime stores it
    kind: str
    inputs: tuple[str, ...] = ()  # empty: it does not name them
    count: int | None = None  # None: it does not say
    accepts_null: bool = True


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is to answer."""

    runtime: str
    data: bytes  # as the runtime stores it
    rows: bytes  # float64, row by row
    columns: int


def inspect(argument: bytes, place: Workplace) -> bytes:
    """Look into a model file, load what was found, and ask it once; a task."""
    asked = msgspec.msgpack.decode(argument, type=Asked)
    bound_memory(asked.format, len(asked.data))
    found = look(asked)
    _ask(runtime_named(found.runtime).load(found.data), np.zeros((1, len(asked.names))))
    return msgspec.msgpack.encode(found)


def answer(argument: bytes, place: Workplace) -> bytes:
    """Have a model answer rows, together and one by one, before it does so in the process that imports it; a task."""
    trial = msgspec.msgpack.decode(argument, type=Trial)
    bound_memory(trial.runtime, len(trial.data) + len(trial.rows))
    rows = np.frombuffer(trial.rows, np.float64).reshape(-1, trial.columns)
    _ask(runtime_named(trial.runtime).load(trial.data), rows)
    return b""


def _ask(scorer: Scorer, rows: NDArray[np.float64]) -> None:
    """Ask for scores; what is wrong with them is found by the process that imports the model, and named there."""
    try:
        scores = np.asarray(scorer.predict(rows))
        if scores.size > _MOST_SCORES * len(rows):
            raise Corrupt(f"the model gives {scores.size // len(rows)} numbers a row; at most {_MOST_SCORES}.")
        for row in rows[:1].tolist() + rows[-1:].tolist():
            scorer.predict_row(row)
    except Corrupt:
        raise
    except Exception as error:  # of any library
        if isinstance(error, MemoryError) or any(said in str(error).lower() for said in _OUT_OF_MEMORY):
            raise Corrupt(f"the model takes far more memory than its file, for {len(rows)} rows.") from error


def look(asked: Asked) -> Inspected:
    """What is found in a model file; in this process."""
    return _LOOKS[asked.format](asked)


def bound_memory(name: str, size: int) -> None:
    """Let this process take no more memory than a model of `size` bytes and rows can need; on Linux alone."""
    libraries, least = _MEMORY.get(name, ((), 0))
    if not least or sys.platform != "linux":
        return
    import resource

    for library in libraries:
        importlib.import_module(library)
    lines = Path("/proc/self/status").read_text().splitlines()
    used = 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])
    resource.setrlimit(resource.RLIMIT_DATA, (used + least + 32 * size, resource.RLIM_INFINITY))


def _lightgbm(asked: Asked) -> Inspected:
    import lightgbm

    if not asked.data.startswith(b"tree\n"):
        raise Corrupt(f"lightgbm: these {len(asked.data)} bytes are no booster in text form.")
    _check_trees(asked.data)
    try:
        booster = lightgbm.Booster(model_str=asked.data.decode())
    except (lightgbm.basic.LightGBMError, UnicodeDecodeError) as error:
        raise Corrupt(f"lightgbm: these bytes are no booster: {error}.") from error
    return Inspected(
        runtime="lightgbm",
        data=asked.data,
        kind="Booster",
        inputs=tuple(booster.feature_name()),
        count=booster.num_feature(),
    )


def _check_trees(data: bytes) -> None:
    """Refuse a booster that ends within its trees, by the sizes that it states: LightGBM reads on, or crashes."""
    sizes = re.search(rb"^tree_sizes=([\d ]*)", data, re.MULTILINE)
    if sizes is None:  # not stated by old versions
        return
    stated = sum(int(size) for size in sizes[1].split())
    found = len(data) - (data.find(b"\nTree=0") + 1 or len(data))
    if found < stated:
        raise Corrupt(f"lightgbm: the file was cut short: its trees have {stated} bytes, {found} are there.")


def _xgboost(asked: Asked) -> Inspected:
    import xgboost

    from trimtab.training.runtimes.boosters.xgboost import RUNTIME

    if asked.data[:1] != b"{":
        raise Corrupt("xgboost: these bytes are neither JSON nor UBJSON.")
    booster = xgboost.Booster({"nthread": 1})
    try:
        booster.load_model(bytearray(asked.data))
    except xgboost.core.XGBoostError as error:
        raise Corrupt(f"xgboost: these bytes are no booster: {str(error)[:200]}") from error
    data = bytes(booster.save_raw("ubj"))
    RUNTIME.load(data)
    config = msgspec.json.decode(booster.save_config())
    return Inspected(
        runtime="xgboost",
        data=data,
        kind="Booster",
        inputs=tuple(booster.feature_names or ()),
        count=booster.num_features(),
        accepts_null=config["learner"]["gradient_booster"]["name"] != "gblinear",
    )


def _catboost(asked: Asked) -> Inspected:
    import catboost

    from trimtab.training.runtimes.boosters.catboost import RUNTIME

    if not asked.data.startswith(b"CBM1"):
        raise Corrupt("catboost: these bytes are no model in its binary format (cbm).")
    model: Any = catboost.CatBoostClassifier() if asked.probability else catboost.CatBoostRegressor()
    try:
        model.load_model(blob=asked.data, format="cbm")
    except catboost.CatBoostError as error:
        raise Corrupt(f"catboost: these bytes are no model: {str(error)[:200]}") from error
    if model.get_cat_feature_indices():
        raise Misuse(
            "catboost: the model encodes categories by itself, and trimtab gives it their numbers. Train it on those."
        )
    names = tuple(model.feature_names_ or ())
    return Inspected(
        runtime="catboost", data=RUNTIME.save(model), kind=type(model).__name__, inputs=names, count=len(names) or None
    )


def _onnx(asked: Asked) -> Inspected:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(asked.data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen kinds of its own, all of them for bytes it cannot read
        if "external data" in str(error).lower():
            raise Misuse(
                "onnx: its weights lie in another file. Save it as one (torch.onnx.export: external_data=False)."
            ) from error
        raise Corrupt(f"onnx: these bytes are no model: {str(error)[:200]}") from error
    taken, given = session.get_inputs(), session.get_outputs()[-1]
    if len(taken) != 1 or len(taken[0].shape) != 2 or taken[0].type not in ("tensor(float)", "tensor(double)"):
        found = ", ".join(f"{one.name}: {one.type} {one.shape}" for one in taken)
        raise Misuse(f"onnx: one input of shape (rows, inputs) in floats is needed; found {found}.")
    if not given.type.startswith("tensor("):
        raise Misuse(f"onnx: its output {given.name!r} is {given.type}. Convert the model again with zipmap=False.")
    if not _NUMBERS.fullmatch(given.type):
        raise Misuse(
            f"onnx: its output {given.name!r} is {given.type}, numbers are needed. Let its last output be "
            "the predictions."
        )
    rows, count = taken[0].shape
    if isinstance(rows, int):
        raise Misuse(
            f"onnx: it takes {rows} rows at a time, any number is needed. Convert the model again with its first "
            "dimension left open (torch.onnx.export: dynamic_shapes)."
        )
    return Inspected(
        runtime="onnx",
        data=asked.data,
        kind="graph",
        count=count if isinstance(count, int) else None,
        accepts_null=count != len(asked.names) or _has_number_for_nulls(session),
    )


def _has_number_for_nulls(session: Any) -> bool:
    taken, given = session.get_inputs()[0], session.get_outputs()[-1]
    kind = np.float32 if taken.type == "tensor(float)" else np.float64
    row = np.full((1, taken.shape[1]), np.nan, kind)
    try:
        answer = session.run([given.name], {taken.name: row})[0]
    except Exception:  # ONNX Runtime's own kinds: a node refuses what it makes of NaN, such as a place in a table
        return False
    return bool(np.isfinite(answer).all())


def _skops(asked: Asked) -> Inspected:
    from trimtab.training.runtimes.sklearn import RUNTIME
    from trimtab.training.runtimes.skops_bytes import loads

    estimator = loads(asked.data)
    if not RUNTIME.handles(estimator):
        raise Misuse(f"skops: it holds a {type(estimator).__name__}, which is no estimator of scikit-learn.")
    return Inspected(
        runtime="sklearn",
        data=RUNTIME.save(estimator),
        kind=type(estimator).__name__,
        accepts_null=RUNTIME.accepts_null(estimator),
        **_seen(estimator),
    )


def _pickle(asked: Asked) -> Inspected:
    import pickle  # somebody said trust="pickle"

    from trimtab.training.runtimes.pickled import PickleRuntime

    try:
        estimator = pickle.loads(asked.data)
    except (Exception, SystemExit) as error:  # it may run any code, and raise anything
        raise Corrupt(f"pickle: these bytes are no estimator: {type(error).__name__}: {error}") from error
    if not PickleRuntime().handles(estimator):
        raise Misuse(f"pickle: it holds a {type(estimator).__name__}, which has no fit and predict.")
    return Inspected(runtime="pickle", data=asked.data, kind=type(estimator).__name__, **_seen(estimator))


def _river(asked: Asked) -> Inspected:
    from trimtab.training.runtimes.river import RUNTIME

    data = msgspec.msgpack.encode({"names": asked.names, "model": asked.data})
    RUNTIME.load(data)
    return Inspected(runtime="river", data=data, kind="River", accepts_null=False)


def _seen(estimator: Any) -> dict[str, Any]:
    """What an estimator of scikit-learn's manner says of its inputs."""
    names = getattr(estimator, "feature_names_in_", None)
    return {
        "inputs": () if names is None else tuple(map(str, names)),
        "count": getattr(estimator, "n_features_in_", None),
    }


_LOOKS = {
    "catboost": _catboost,
    "lightgbm": _lightgbm,
    "onnx": _onnx,
    "pickle": _pickle,
    "river": _river,
    "skops": _skops,
    "xgboost": _xgboost,
}
