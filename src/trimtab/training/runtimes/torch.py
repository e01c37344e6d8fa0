"""PyTorch on the CPU. Only the weights are stored, as plain numbers; the project's code builds the network again.

Loading runs no code from the stored bytes, because they only contain arrays. For a network of the user's own, the bytes
also have the name and the hash of the function that builds it. This function must be the same as at training.  # D74
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Lock
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trimtab.core.errors import Corrupt, Misuse
from trimtab.core.expressions.code import code_hash
from trimtab.training.runtimes.estimators import TorchEstimator
from trimtab.training.runtimes.library import LibraryRuntime
from trimtab.training.runtimes.ports import Score, check_columns, row_score

_DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_DRAWS = Lock()  # PyTorch has only one random generator for all threads


class _Array(msgspec.Struct, frozen=True, array_like=True):
    """One tensor of a network: little-endian, row after row."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    format: Literal[1] = 1
    layers: tuple[int, ...]
    build: str | None  # "module:function" that builds the user's own network; None: it consists of `layers`
    code: str | None  # the hash of that function's code; None: there is no such function
    inputs: int
    outputs: int  # 1 for a number or for one probability; otherwise the number of classes
    chances: bool  # whether the network gives probabilities
    # For numbers: the mean of the training labels. The network's output is the difference from this mean, in units of
    # `spread`.
    level: float
    spread: float
    arrays: tuple[_Array, ...]


class TorchRuntime(LibraryRuntime):
    """Fits networks with Adam in small batches, with a seed, on the CPU only."""

    name = "torch"
    row_exact = False  # computed in single precision, and differently for one row and for many
    parity = 1e-6

    def handles(self, estimator: Any) -> bool:
        return isinstance(estimator, TorchEstimator)

    def accepts_null(self, estimator: Any) -> bool:
        return False

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        if estimator.seed is None:
            estimator.seed = seed
        estimator.threads = threads

    def fit(
        self,
        estimator: Any,
        inputs: NDArray[Any],
        target: NDArray[Any],
        names: tuple[str, ...],
        weights: NDArray[Any] | None = None,
    ) -> TorchScorer:
        import torch

        _named(estimator.build)  # raises an error before the fit if the network could not be stored after it
        probability = bool(np.issubdtype(target.dtype, np.integer))
        outputs = int(target.max()) + 1 if probability and target.max() > 1 else 1
        level, spread = (0.0, 1.0) if probability else _level_and_spread(target, weights)
        torch.set_num_threads(estimator.threads)
        with _drawing(estimator.seed or 0):
            module = _built(estimator.build, estimator.layers, inputs.shape[1], outputs)
        _learn(module, estimator, inputs, (target - level) / spread, weights, probability=probability, outputs=outputs)
        about = _Saved(
            layers=estimator.layers,
            build=_named(estimator.build),
            code=None if estimator.build is None else code_hash(estimator.build),
            inputs=inputs.shape[1],
            outputs=outputs,
            chances=probability,
            level=level,
            spread=spread,
            arrays=(),
        )
        return TorchScorer(module, about)

    def save(self, fitted: Any) -> bytes:
        state = fitted.module.state_dict()
        return msgspec.msgpack.encode(
            msgspec.structs.replace(fitted.about, arrays=tuple(_array(name, state[name]) for name in state))
        )

    def load(self, data: bytes) -> TorchScorer:
        import torch

        try:
            saved = msgspec.msgpack.decode(data, type=_Saved)
        except msgspec.DecodeError as error:
            raise Corrupt(f"torch: these {len(data)} bytes are not a model: {error}") from error
        torch.set_num_threads(1)  # more threads would wait for each other if other processes run
        build = None if saved.build is None else _builder(saved.build, saved.code)
        with _drawing(0):  # the network draws initial weights, which are replaced below
            module = _built(build, saved.layers, saved.inputs, saved.outputs)
        try:
            module.load_state_dict({one.name: _tensor(one) for one in saved.arrays}, strict=True)
        except (RuntimeError, ValueError) as error:
            raise Corrupt(f"torch: the stored weights do not fit this module: {error}") from error
        return TorchScorer(module, msgspec.structs.replace(saved, arrays=()))


class TorchScorer:
    """A loaded network. Scoring does not change it, so threads may share it."""

    def __init__(self, module: Any, about: _Saved) -> None:
        self.module = module.eval()
        self.about = about  # everything that is stored, except the weights

    def predict(self, matrix: NDArray[Any]) -> NDArray[Any]:
        import torch

        about = self.about
        check_columns("torch", matrix, about.inputs)
        with torch.inference_mode():
            # copied, because PyTorch may write to it
            raw = self.module(torch.from_numpy(np.array(matrix, np.float32, order="C")))
            raw = _shaped(raw, len(matrix), about.outputs).to(torch.float64)
            if about.chances:
                raw = torch.sigmoid(raw) if about.outputs == 1 else torch.softmax(raw, dim=1)
        return np.asarray(raw.numpy(), np.float64) * about.spread + about.level

    def predict_row(self, row: list[float]) -> Score:
        return row_score(self.predict(np.array([row], np.float64)))


def _learn(
    module: Any,
    estimator: TorchEstimator,
    inputs: NDArray[Any],
    target: NDArray[Any],
    weights: NDArray[Any] | None,
    *,
    probability: bool,
    outputs: int,
) -> None:
    import torch

    x = torch.from_numpy(np.array(inputs, np.float32, order="C"))
    y = torch.from_numpy(np.array(target, np.int64 if outputs > 1 else np.float32))
    row_weights = torch.ones(len(x)) if weights is None else torch.from_numpy(np.array(weights, np.float32))
    functions = torch.nn.functional
    optimizer = torch.optim.Adam(module.parameters(), lr=estimator.learning_rate)
    module.train()
    seed = estimator.seed or 0
    order = np.random.default_rng(seed)
    for epoch in range(estimator.epochs):
        for step, rows in enumerate(_batches(torch.from_numpy(order.permutation(len(x))), estimator.batch_rows)):
            optimizer.zero_grad()
            with _drawing((seed, epoch, step)):  # layers such as dropout draw random numbers
                raw = _shaped(module(x[rows]), len(rows), outputs)
            if outputs > 1:
                losses = functions.cross_entropy(raw, y[rows], reduction="none")
            elif probability:
                losses = functions.binary_cross_entropy_with_logits(raw, y[rows], reduction="none")
            else:
                losses = functions.mse_loss(raw, y[rows], reduction="none")
            torch.autograd.backward((losses * row_weights[rows]).mean())
            optimizer.step()


@contextmanager
def _drawing(seed: int | tuple[int, ...]) -> Iterator[None]:
    """Seed PyTorch's random generator, and restore its state at the end. Meanwhile, other threads cannot enter here.

    A long fit takes this lock for each step, so that other threads can load models in between.
    """
    import torch

    start = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
    with _DRAWS:
        before = torch.default_generator.get_state()
        torch.default_generator.manual_seed(start)
        try:
            yield
        finally:
            torch.default_generator.set_state(before)


def _batches(order: Any, rows: int) -> list[Any]:
    """Return batches of `rows` rows each.

    If the last one would have a single row, this row is added to the batch before, because some layers need two rows.
    """
    parts = list(order.split(rows))
    if len(parts) > 1 and rows > 1 and len(parts[-1]) == 1:
        parts[-2:] = [order[-rows - 1 :]]
    return parts


def _level_and_spread(target: NDArray[Any], weights: NDArray[Any] | None) -> tuple[float, float]:
    """Return the mean of labels, and their standard deviation (1 if all are equal). Adam needs scaled labels."""
    level = float(np.average(target, weights=weights))
    spread = float(np.sqrt(np.average((target - level) ** 2, weights=weights)))
    return level, spread if spread > 0.0 else 1.0


def _named(build: Any) -> str | None:
    """Return the name under which a function can be imported; None if no function is given.

    Raises:
        Misuse: The function cannot be imported under a name.
    """
    import torch

    if build is None:
        return None
    if isinstance(build, torch.nn.Module):
        raise Misuse(
            f"torch: neural got a {type(build).__name__} object. Give its class, or a function "
            "that makes it from the numbers of inputs and outputs."
        )
    name = f"{getattr(build, '__module__', None)}:{getattr(build, '__qualname__', type(build).__qualname__)}"
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is not build:
        raise Misuse(
            f"torch: {name} cannot be imported by its name, and without that the model could not be loaded. Define it "
            "at the top level of a file."
        )
    return name


def _built(build: Any, layers: tuple[int, ...], inputs: int, outputs: int) -> Any:
    import torch

    if build is not None:
        try:
            module = build(inputs, outputs)
        except Exception as error:  # the user's function may raise any exception
            raise Misuse(
                f"torch: {build.__qualname__}({inputs}, {outputs}) raised {type(error).__name__}: {error}"
            ) from error
        if not isinstance(module, torch.nn.Module):
            raise Misuse(f"torch: {build.__qualname__} gave {module!r}. Needed: a torch.nn.Module.")
        return module
    parts: list[Any] = []
    for width in layers:
        parts += [torch.nn.Linear(inputs, width), torch.nn.ReLU()]
        inputs = width
    return torch.nn.Sequential(*parts, torch.nn.Linear(inputs, outputs))


def _shaped(raw: Any, rows: int, outputs: int) -> Any:
    """Return the network's output with shape (rows,) if there is one output, and otherwise (rows, outputs)."""
    import torch

    if not isinstance(raw, torch.Tensor):
        raise Misuse(f"torch: the module gives a {type(raw).__name__}; needed a tensor of shape {(rows, outputs)}.")
    wanted = (rows,) if outputs == 1 else (rows, outputs)
    if tuple(raw.shape) not in {wanted, (rows, outputs)}:
        raise Misuse(f"torch: the module gives {tuple(raw.shape)} for {rows} rows; needed {(rows, outputs)}.")
    return raw.reshape(wanted)


def _builder(name: str, code: str | None) -> Any:
    """Return the function that builds the network, after a check that it is the same as at training."""
    module, _, path = name.partition(":")
    try:
        found: Any = sys.modules.get(module) or import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise Misuse(f"torch: {name}, which builds the module, cannot be found: {error}. Define it again.") from error
    if code_hash(found) != code:
        raise Misuse(f"torch: {name}, which builds the module, was changed after the training. Train the model again.")
    return found


def _array(name: str, tensor: Any) -> _Array:
    dtype = str(getattr(tensor, "dtype", type(tensor).__name__)).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise Misuse(f"torch: {name} of the module is {dtype}; only tensors of {', '.join(_DTYPES)} can be stored.")
    values = tensor.detach().cpu().contiguous().numpy()
    return _Array(name, dtype, tuple(values.shape), values.astype(values.dtype.newbyteorder("<")).tobytes())


def _tensor(array: _Array) -> Any:
    import torch

    if array.dtype not in _DTYPES:
        raise ValueError(f"{array.name} is {array.dtype}")
    values = np.frombuffer(array.data, np.dtype(array.dtype).newbyteorder("<")).reshape(array.shape)
    return torch.from_numpy(values.astype(array.dtype))  # copied, because PyTorch may write to it


RUNTIME = TorchRuntime()
