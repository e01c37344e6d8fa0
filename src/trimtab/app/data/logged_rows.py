"""Build training rows from logged feature values, for models with `rows="logged"`.  # D54"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.app.data.logged_requests import LoggedRequest
from trimtab.core.columns.column import NUMPY_TYPES
from trimtab.core.columns.data import Column, Columns
from trimtab.core.errors import Corrupt
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import FeatureSet
from trimtab.features.frames import FAILED, NO_VIEW, FeatureFrame
from trimtab.registry import Registry
from trimtab.store.ports import Blob
from trimtab.training.fitting.artifact import decode_artifact

EncodingOf = Callable[[str, FeatureSet], Encoding | None]


def encodings(registry: Registry, blob: Blob) -> EncodingOf:
    """Return a function of a version's id and features that gives the version's input encoding, which it caches.

    It gives None if the version was trained on other features.
    """
    known: dict[tuple[str, str], Encoding | None] = {}

    def encoding_of(address: str, features: FeatureSet) -> Encoding | None:
        key = (address, features.hash)
        if key not in known:
            version = registry.get(address)
            same = version.features == features.hash
            known[key] = decode_artifact(blob.get(version.artifact)).encoding if same else None
        return known[key]

    return encoding_of


def logged_features(features: FeatureSet, rows: Sequence[LoggedRequest], encoding_of: EncodingOf) -> FeatureFrame:
    """Return the feature values that were used to answer requests, decoded from the logged inputs.

    If they are encoded again, the inputs are equal to the logged ones in every bit.

    Args:
        rows: Requests with their logged inputs. All of them must have been answered by versions with these features.
        encoding_of: Returns the encoding of a version, which maps the logged code of a category to its text.

    Raises:
        Corrupt: A logged row does not match the features of its version.
    """
    width = len(features.names)
    for row in rows:
        if len(row.values) != 8 * width or len(row.reasons) != width:
            raise Corrupt(
                f"prediction log: the answer to {row.request_id!r} does not have the {width} inputs of its version."
            )
    matrix = np.frombuffer(b"".join(row.values for row in rows), "<f8").reshape(len(rows), width)
    codes = np.frombuffer(b"".join(row.reasons for row in rows), np.uint8).reshape(len(rows), width)
    versions = np.array([row.version for row in rows], object)
    columns = {}
    for place, (name, dtype) in enumerate(features.dtypes.items()):
        numbers = matrix[:, place].astype(np.float64)
        if name in features.categories:
            columns[name] = _texts(name, numbers, versions, features, encoding_of)
        else:
            there = ~np.isnan(numbers)
            values = numbers if dtype == "float" else np.where(there, numbers, 0.0).astype(NUMPY_TYPES[dtype])
            columns[name] = Column(dtype, values, None if there.all() else there)
    reasons = {name: codes[:, place].copy() for place, name in enumerate(features.names) if _of_view(features, name)}
    for name, given in reasons.items():
        if (given == NO_VIEW).any():
            raise Corrupt(f"prediction log: feature {name!r} of a view was logged without a reason.")
    marks = {name: codes[:, place] == FAILED for place, name in enumerate(features.names) if name not in reasons}
    return FeatureFrame(Columns(columns), reasons, {name: failed for name, failed in marks.items() if failed.any()})


def _texts(
    name: str, numbers: NDArray[Any], versions: NDArray[Any], features: FeatureSet, encoding_of: EncodingOf
) -> Column:
    there = ~np.isnan(numbers)
    values = np.full(len(numbers), None, object)
    for version in set(versions.tolist()):
        encoding = encoding_of(version, features)
        assert encoding is not None  # rows of versions with other features are excluded
        here = there & (versions == version)
        values[here] = np.array(encoding.vocabularies[name], object)[numbers[here].astype(np.int64)]
    return Column("str", values, None if there.all() else there)


def _of_view(features: FeatureSet, name: str) -> bool:
    return name not in features.transforms
