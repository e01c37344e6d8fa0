"""The stored input profiles: a blob for each version, and a catalogue record that names the blob."""

from __future__ import annotations

from typing import Literal

import msgspec

from trimtab.core.clock import Clock
from trimtab.core.errors import Corrupt, Misuse, NotFound
from trimtab.features.encoding import Encoding
from trimtab.features.feature_set import FeatureSet
from trimtab.monitoring.profiles.profile_records import InputProfile, decode_profile, encode_profile
from trimtab.monitoring.profiles.profiles import make_profile
from trimtab.registry.versions import Version
from trimtab.store.ports import Blob, Catalog, Put, read_record
from trimtab.training.data.sets import TrainingSet, load_training_set
from trimtab.training.fitting.artifact import decode_artifact

KIND = "input_profile"  # the kind of these records; their key is the id of the version


class ProfileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record that names the blob of a version's profile, or says why there is none."""

    format: Literal[1] = 1
    blob: str | None  # the hash of the profile's blob; None: there is no profile
    why: str | None  # the reason why there is no profile; None: there is one
    rows: int
    made_at_us: int


def why_no_profile(catalog: Catalog, version: str) -> str | None:
    """Return why a version has no input profile; None if it has one, or if none was needed yet."""
    record = catalog.get(KIND, version)
    return None if record is None else msgspec.json.decode(record.body, type=ProfileRecord).why


class Profiles:
    """Makes and stores the input profiles of versions. A profile is made from the training set at its first use."""

    def __init__(self, catalog: Catalog, blob: Blob, clock: Clock) -> None:
        self._catalog = catalog
        self._blob = blob
        self._clock = clock

    def of(self, version: Version) -> InputProfile | str:
        """The profile of a version, or one sentence that says why it has no profile."""
        record = read_record(self._catalog, KIND, version.id, ProfileRecord)
        if record is not None and record.why is not None:
            return record.why
        if record is not None and record.blob is not None:
            try:
                return decode_profile(self._blob.get(record.blob))
            # the blob was removed or is damaged, so the profile is made again from the same rows
            except (NotFound, Corrupt):
                pass
        return self._made(version)

    def learnt_until(self, version: Version) -> int | None:
        """Return the end of the newest training day that has a final label; None without such a day or a profile."""
        record = read_record(self._catalog, KIND, version.id, ProfileRecord)
        if record is None or record.blob is None:
            return None
        try:
            return decode_profile(self._blob.get(record.blob)).labels.end_us
        except (NotFound, Corrupt):
            return None

    def inputs_of(self, version: Version) -> tuple[FeatureSet, Encoding]:
        """Return the feature definitions of a version, and the encoding that turns features into numbers."""
        artifact = decode_artifact(self._blob.get(version.artifact))
        return artifact.features(version.features), artifact.encoding

    def make(self, version: Version, training_set: TrainingSet) -> InputProfile:
        """Make the profile of a version from a training set in memory, and store it."""
        features, encoding = self.inputs_of(version)
        classes = decode_artifact(self._blob.get(version.artifact)).class_names
        profile = make_profile(features, encoding, training_set, classes)
        self.store(version, profile)
        return profile

    def store(self, version: Version, profile: InputProfile) -> None:
        """Store the profile of a version."""
        self._record_as(version.id, self._blob.put(encode_profile(profile)), None, profile.rows)

    def _made(self, version: Version) -> InputProfile | str:
        if version.imported is not None:
            return self._without(
                version, "the version was imported, so the rows that it was fitted on are not stored here"
            )
        try:
            key = self.inputs_of(version)[0].request.key
            return self.make(version, load_training_set(version.training_set, self._blob, key=key))
        except (NotFound, Corrupt, Misuse) as error:
            return self._without(version, f"its training set or its features cannot be read: {error}")

    def _without(self, version: Version, why: str) -> str:
        self._record_as(version.id, None, why, 0)
        return why

    def _record_as(self, version: str, blob: str | None, why: str | None, rows: int) -> None:
        record = ProfileRecord(blob=blob, why=why, rows=rows, made_at_us=self._clock.now_us())
        self._catalog.write([Put(KIND, version, msgspec.json.encode(record))])
