"""The results of a pipeline's steps as bytes, and what their inputs are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from trimtab.core.errors import NotFound
from trimtab.core.hashing import bytes_hash
from trimtab.core.records import GateRecord
from trimtab.registry import Version
from trimtab.run import AtOnce, Codec, Steps
from trimtab.steering.candidates.recipes import Floats, Rows
from trimtab.store.ports import Blob
from trimtab.training.data.sets import TrainingSet, load_manifest, load_training_set, save_training_set
from trimtab.training.definitions import Model
from trimtab.training.fitting.artifact import decode_artifact, scorer_for
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.search import Chosen


class Recording(msgspec.Struct, frozen=True):
    """How the steps of a pipeline are done, and what they depend on beside each other's results.

    As it is made without arguments nothing is recorded: for replays.
    """

    steps: Steps = AtOnce()
    pin: Callable[[Model, int], object] = lambda model, cut_us: None  # all that the training set of a cut depends on
    code: Callable[[], object] = lambda: None  # recipe, seed, threads and environment


class _StoredFit(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted model, its artifact in a blob of its own: the one that its version will name."""

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


def fit_codec(blob: Blob) -> Codec[Fitted]:
    """Fitted models; equal training gives equal bytes."""

    def encode(fitted: Fitted) -> bytes:
        return msgspec.json.encode(
            _StoredFit(
                model=fitted.model,
                recipe=fitted.recipe,
                features=fitted.features,
                artifact=blob.put(fitted.data),
                importance=fitted.importance,
                cut_us=fitted.cut_us,
                positions=fitted.positions,
                rows=fitted.rows,
                seed=fitted.seed,
                chosen=fitted.chosen,
            )
        )

    def decode(data: bytes) -> Fitted:
        stored = msgspec.json.decode(data, type=_StoredFit)
        found = blob.get(stored.artifact)
        artifact = decode_artifact(found)
        return Fitted(
            model=stored.model,
            recipe=stored.recipe,
            features=stored.features,
            artifact=artifact,
            data=found,
            digest=stored.artifact,
            scorer=scorer_for(artifact),
            importance=stored.importance,
            cut_us=stored.cut_us,
            positions=stored.positions,
            rows=stored.rows,
            seed=stored.seed,
            chosen=stored.chosen,
        )

    return Codec(encode, decode)


def set_codec(blob: Blob, key: str) -> Codec[TrainingSet]:
    """Training sets, by their manifests; `key` is the request's key column."""

    def encode(training_set: TrainingSet) -> bytes:
        return blob.get(save_training_set(training_set, blob))

    return Codec(encode, lambda data: load_training_set(bytes_hash(data), blob, key=key))


def discard_set(training_set: TrainingSet, blob: Blob, versions: Sequence[Version]) -> None:
    """Delete a stored training set, unless one of the versions was made of it."""
    digest = save_training_set(training_set, blob)  # its address
    parquet = load_manifest(digest, blob).parquet
    for version in versions:
        with contextlib.suppress(NotFound):
            if version.training_set == digest or load_manifest(version.training_set, blob).parquet == parquet:
                return
    for one in filter(None, (digest, parquet)):
        blob.delete(one)


def digest_codec(blob: Blob) -> Codec[str | None]:
    """The address of something that is stored; None where nothing was made."""

    def decode(data: bytes) -> str | None:
        digest = data.decode() or None
        if digest is not None and not blob.exists(digest):
            raise NotFound(f"blob {digest}: not there any more.")
        return digest

    return Codec(lambda digest: (digest or "").encode(), decode)


GATE = Codec[GateRecord](msgspec.json.encode, lambda data: msgspec.json.decode(data, type=GateRecord))
TEXT = Codec[str](str.encode, bytes.decode)


def address_of_rows(rows: Rows) -> str:
    """The content address of a choice of rows."""
    return bytes_hash(np.packbits(rows).tobytes())


def address_of_scores(scores: Floats | None) -> str | None:
    """The content address of some scores."""
    return None if scores is None else bytes_hash(scores.tobytes())


def address_of_set(training_set: TrainingSet) -> object:
    """What a training set is known by, stored or not, as a JSON value."""
    return msgspec.to_builtins(msgspec.structs.replace(training_set.manifest, parquet=None))
