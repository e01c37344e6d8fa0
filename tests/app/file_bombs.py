"""Model files and tables of few bytes that could become much."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import xgboost
from onnx import TensorProto, helper

import arrow_bombs

MB = 1_000_000
_ROWS = np.random.default_rng(0).normal(size=(200, 2))
_LABELS = (_ROWS[:, 0] > 0).astype(int)


class FileBomb(NamedTuple):
    """One file."""

    name: str
    ending: str
    data: bytes
    format: str = ""  # of a model; empty: a table

    def __str__(self) -> str:
        return self.name


def onnx_model(nodes: list[Any], initializers: list[Any], columns: int = 2) -> bytes:
    """A graph from x to y."""
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, columns])
    given = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "bomb", [taken], [given], initializer=initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def endless_loop(columns: int = 2) -> bytes:
    """A loop that goes on for ever."""
    number, truth = TensorProto.INT64, TensorProto.BOOL
    body = helper.make_graph(
        [helper.make_node("Identity", ["c_in"], ["c_out"]), helper.make_node("Identity", ["v_in"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", number, []),
            helper.make_tensor_value_info("c_in", truth, []),
            helper.make_tensor_value_info("v_in", TensorProto.FLOAT, [None, columns]),
        ],
        [
            helper.make_tensor_value_info("c_out", truth, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [None, columns]),
        ],
    )
    times = helper.make_tensor("times", number, [], [2**62])
    always = helper.make_tensor("always", truth, [], [True])
    loop = helper.make_node("Loop", ["times", "always", "x"], ["y"], body=body)
    return onnx_model([loop], [times, always], columns)


def huge_constant(count: int, columns: int = 2) -> bytes:
    """A constant of so many numbers, told by its shape."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [count // columns, columns])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [0])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["ones"]),
        helper.make_node("ReduceSum", ["ones", "axes"], ["one"], keepdims=1),
        helper.make_node("Add", ["x", "one"], ["y"]),
    ]
    return onnx_model(nodes, [shape, axes], columns)


def tiled(times: int, columns: int = 2) -> bytes:
    """Each row so many times."""
    repeats = helper.make_tensor("repeats", TensorProto.INT64, [2], [1, times])
    return onnx_model([helper.make_node("Tile", ["x", "repeats"], ["y"])], [repeats], columns)


def lightgbm_text() -> str:
    data = lightgbm.Dataset(_ROWS, _LABELS, feature_name=["a", "b"])
    booster = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 3)
    return str(booster.model_to_string())


def xgboost_document() -> dict[str, Any]:
    data = xgboost.DMatrix(_ROWS, _LABELS, nthread=1)
    booster = xgboost.train({"nthread": 1, "objective": "binary:logistic"}, data, 3)
    found: dict[str, Any] = json.loads(booster.save_raw("json"))
    return found


def xgboost_with(place: tuple[str | int, ...], value: Any) -> bytes:
    document = xgboost_document()
    at: Any = document
    for name in place[:-1]:
        at = at[name]
    at[place[-1]] = value
    return json.dumps(document).encode()


def models(rng: random.Random) -> Iterator[FileBomb]:
    n = rng.randint(1, 8)
    text, huge = lightgbm_text(), str(2 ** rng.randint(28, 31) - 1)
    trees = ("learner", "gradient_booster", "model")
    for name, data in (
        ("huge constant", huge_constant(10 ** rng.randint(8, 10))),
        ("tiled", tiled(10 ** rng.randint(6, 9))),
        ("cut", huge_constant(10)[: -rng.randint(1, 40)]),
        ("random", rng.randbytes(10_000)),
    ):
        yield FileBomb(f"onnx: {name}", ".onnx", data, "onnx")
    for name, changed in (
        ("num_leaves", text.replace("num_leaves=", f"num_leaves={huge}", 1)),
        ("num_class", text.replace("num_class=1", f"num_class={huge}", 1)),
        ("trees an iteration", text.replace("num_tree_per_iteration=1", f"num_tree_per_iteration={huge}", 1)),
        ("max_feature_idx", text.replace("max_feature_idx=1", f"max_feature_idx={huge}", 1)),
        ("tree_sizes", text.replace("tree_sizes=", f"tree_sizes={huge} ", 1)),
        ("num_cat", text.replace("num_cat=0", f"num_cat={huge}", 1)),
        ("long line", text.replace("feature_names=", "feature_names=" + "a " * (n * MB // 16), 1)),
        ("many trees", text + "\nTree=9\n" * (n * 10_000)),
    ):
        yield FileBomb(f"lightgbm: {name}", ".txt", changed.encode(), "lightgbm")
    documents = {
        "num_nodes": xgboost_with((*trees, "trees", 0, "tree_param", "num_nodes"), huge),
        "num_trees": xgboost_with((*trees, "gbtree_model_param", "num_trees"), huge),
        "num_feature": xgboost_with(("learner", "learner_model_param", "num_feature"), huge),
        "num_class": xgboost_with(("learner", "learner_model_param", "num_class"), huge),
        "num_target": xgboost_with(("learner", "learner_model_param", "num_target"), huge),
        "size_leaf_vector": xgboost_with((*trees, "trees", 0, "tree_param", "size_leaf_vector"), huge),
        "left_children": xgboost_with((*trees, "trees", 0, "left_children"), [0] * (n * 20_000)),
        "deep": b'{"a":' * (n * 20_000),
        "brackets": b"{" + b'"a":[' * (n * 20_000),
        "ubjson of a length": b"{L\x00\x00\x00\x00\x00\x00\x00\x01a[$d#L\x7f\xff\xff\xff\xff\xff\xff\xff",
        "ubjson of a long text": b"{L\x7f\xff\xff\xff\xff\xff\xff\xffa",
    }
    for name, data in documents.items():
        yield FileBomb(f"xgboost: {name}", ".ubj" if "ubjson" in name else ".json", data, "xgboost")


def table(rows: int, **options: Any) -> bytes:
    """A Parquet file of readings that are all the same."""
    sink = pa.BufferOutputStream()
    times = pa.array(np.full(rows, 1_700_000_000_000_000), pa.timestamp("us"))
    same = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array(["north" * 20]))
    readings = pa.table({"site": same, "level": np.zeros(rows), "read_at": times})
    parquet.write_table(readings, sink, **options)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes of it changed, of which most lie in headers."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        out[rng.choice((rng.randrange(len(out)), len(out) - 1 - rng.randrange(min(len(out), 900))))] = rng.choice(
            (0, 127, 128, 255, rng.randrange(256))
        )
    return bytes(out)


def tables(rng: random.Random, most: int = 8) -> Iterator[FileBomb]:
    """Make tables, each up to `most` times as large as the smallest."""
    n = rng.randint(1, most)
    whole, head = table(300 * n), b"site,level,read_at\n"
    kinds: dict[str, tuple[str, Callable[[], bytes]]] = {
        "the same row": (".parquet", lambda: table(n * 10_000_000, compression="zstd")),
        "damaged": (".parquet", lambda: damaged(whole, rng)),
        "damaged too": (".parquet", lambda: damaged(whole, rng)),
        "damaged again": (".parquet", lambda: damaged(table(300, compression="none"), rng)),
        "zeros": (".csv.gz", lambda: gzip.compress(bytes(n * 100 * MB), 6)),
        "rows": (".csv.gz", lambda: gzip.compress(head + b"a,1,1700000000000000\n" * (n * 5 * MB), 6)),
        "quotes": (".csv.gz", lambda: gzip.compress(head + b'"' * (n * 50 * MB), 6)),
        "a long header": (".csv.gz", lambda: gzip.compress(b"a," * (n * 25 * MB), 6)),
        "lines": (".ndjson.gz", lambda: gzip.compress(b'{"site":"a","level":1}\n' * (n * 5 * MB), 6)),
        "one line": (".ndjson.gz", lambda: gzip.compress(b"[" * (n * 50 * MB), 6)),
        "no gzip": (".csv.gz", lambda: rng.randbytes(1_000)),
    }
    for name, (ending, make) in kinds.items():
        yield FileBomb(f"{name}{ending}", ending, make())
    arrow = arrow_bombs.bombs(rng)
    for _ in range(28):
        name, data = next(arrow)
        yield FileBomb(f"{name}.arrow", ".arrow", data)
