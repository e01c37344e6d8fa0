"""The results of a training's steps as bytes, and the addresses of the inputs of these steps."""

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
    """The recording of a training's steps, and what all steps depend on in addition to the results of earlier steps.

    Without arguments nothing is recorded; replays use that.
    """

    steps: Steps = AtOnce()
    # everything that the training set of a cut depends on
    pin: Callable[[Model, int], object] = lambda model, cut_us: None
    code: Callable[[], object] = lambda: None  # recipe, seed, threads and environment


class _StoredFit(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted model. Its artifact is in the same blob that its version will name."""

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


# these are also fields of `Fitted`
_AS_THEY_ARE = [name for name in _StoredFit.__struct_fields__ if name != "artifact"]


def fit_codec(blob: Blob) -> Codec[Fitted]:
    """The codec of fitted models; the same training gives the same bytes."""

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
    """The codec of training sets, which are stored by their manifests; `key` is the key column of the request."""

    def encode(training_set: TrainingSet) -> bytes:
        return blob.get(save_training_set(training_set, blob))

    return Codec(encode, lambda data: load_training_set(bytes_hash(data), blob, key=key))


def digest_codec(blob: Blob) -> Codec[str | None]:
    """The codec of the address of a stored blob, or of None if nothing was made."""

    def decode(data: bytes) -> str | None:
        digest = data.decode() or None
        if digest is not None and not blob.exists(digest):
            raise NotFound(f"blob {digest}: not there any more.")
        return digest

    return Codec(lambda digest: (digest or "").encode(), decode)


GATE = Codec[GateRecord](msgspec.json.encode, lambda data: msgspec.json.decode(data, type=GateRecord))
TEXT = Codec[str](str.encode, bytes.decode)


def address_of_rows(rows: Rows) -> str:
    """The content address of a mask of rows."""
    return bytes_hash(np.packbits(rows).tobytes())


def address_of_scores(scores: Floats | None) -> str | None:
    """The content address of some scores."""
    return None if scores is None else bytes_hash(scores.tobytes())


def address_of_set(training_set: TrainingSet) -> object:
    """The identity of a training set, stored or not, as a JSON value."""
    return msgspec.to_builtins(msgspec.structs.replace(training_set.manifest, parquet=None))
