"""Encoding of the results of training steps as bytes, and hashes of what each step depends on."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from trimtab.core.errors import NotFound
from trimtab.core.hashing import bytes_hash
from trimtab.core.records import GateRecord
from trimtab.run import AtOnce, Codec, Steps
from trimtab.steering.candidates.recipes import Floats, Rows
from trimtab.store.ports import Blob
from trimtab.training.data.sets import TrainingSet, load_training_set, save_training_set
from trimtab.training.definitions import Model
from trimtab.training.fitting.artifact import decode_artifact, scorer_for
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.search import Chosen


class Recording(msgspec.Struct, frozen=True):
    """How the results of training steps are recorded, and what all steps depend on.

    The default, for replays, records nothing.
    """

    steps: Steps = AtOnce()
    # returns everything that a training set with a given cut depends on
    pin: Callable[[Model, int], object] = lambda model, cut_us: None
    # returns the recipe (how models are fitted), the seed, the number of threads and the environment
    code: Callable[[], object] = lambda: None


class _StoredFit(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted model as it is recorded. `artifact` is the hash of the blob that has the model itself."""

    model: str
    recipe: str
    features: str
    artifact: str
    importance: dict[str, float] | None
    cut_us: int
    positions: dict[str, int]
    rows: int
    seed: int
    chosen: Chosen | None = None
    half_life_us: int | None = None


# the fields that `Fitted` has, too
_AS_THEY_ARE = [name for name in _StoredFit.__struct_fields__ if name != "artifact"]


def fit_codec(blob: Blob) -> Codec[Fitted]:
    """Return the codec of fitted models. Equal fits give equal bytes."""

    def encode(fitted: Fitted) -> bytes:
        fields = {name: getattr(fitted, name) for name in _AS_THEY_ARE}
        return msgspec.json.encode(_StoredFit(artifact=blob.put(fitted.data), **fields))

    def decode(data: bytes) -> Fitted:
        stored = msgspec.json.decode(data, type=_StoredFit)
        found = blob.get(stored.artifact)
        artifact = decode_artifact(found)
        fields = {name: getattr(stored, name) for name in _AS_THEY_ARE}
        return Fitted(artifact=artifact, data=found, digest=stored.artifact, scorer=scorer_for(artifact), **fields)

    return Codec(encode, decode)


def set_codec(blob: Blob, key: str) -> Codec[TrainingSet]:
    """Return the codec of training sets, which are stored as manifests. `key` is the key column of the request."""

    def encode(training_set: TrainingSet) -> bytes:
        return blob.get(save_training_set(training_set, blob))

    return Codec(encode, lambda data: load_training_set(bytes_hash(data), blob, key=key))


def digest_codec(blob: Blob) -> Codec[str | None]:
    """Return the codec of values that are None or the hash of a blob. It refuses to decode the hash of a lost blob."""

    def decode(data: bytes) -> str | None:
        digest = data.decode() or None
        if digest is not None and not blob.exists(digest):
            raise NotFound(f"blob {digest}: it is no longer stored.")
        return digest

    return Codec(lambda digest: (digest or "").encode(), decode)


GATE = Codec[GateRecord](msgspec.json.encode, lambda data: msgspec.json.decode(data, type=GateRecord))
TEXT = Codec[str](str.encode, bytes.decode)


def address_of_rows(rows: Rows) -> str:
    """Return a hash of a boolean array of rows."""
    return bytes_hash(np.packbits(rows).tobytes())


def address_of_scores(scores: Floats | None) -> str | None:
    """Return a hash of some scores; None if there are none."""
    return None if scores is None else bytes_hash(scores.tobytes())


def address_of_set(training_set: TrainingSet) -> object:
    """Return a JSON value that identifies a training set, whether it is stored or not."""
    return msgspec.to_builtins(msgspec.structs.replace(training_set.manifest, parquet=None))
