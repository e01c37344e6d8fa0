"""Tests that every implementation of `Blob` must pass."""

from __future__ import annotations

import hashlib

import pytest

from trimtab.core.errors import Misuse, NotFound
from trimtab.store.ports import Blob


class BlobContract:
    """Tests for a blob store. To use them, write a subclass named `Test...` with a fixture `blobs`.

    The fixture returns an empty blob store.
    """

    @pytest.fixture
    def blobs(self) -> Blob:
        raise NotImplementedError("give a fixture `blobs` with an empty blob store")

    @pytest.mark.parametrize("data", [b"", b"\x00", b"weights" * 100_000])
    def test_bytes_come_back_by_their_hash(self, blobs: Blob, data: bytes) -> None:
        digest = blobs.put(data)
        assert digest == hashlib.sha256(data).hexdigest()
        assert blobs.exists(digest)
        assert blobs.get(digest) == data

    def test_putting_twice_is_putting_once(self, blobs: Blob) -> None:
        assert blobs.put(b"same") == blobs.put(b"same")
        assert blobs.delete(blobs.put(b"same"))
        assert not blobs.exists(hashlib.sha256(b"same").hexdigest())

    def test_what_is_deleted_is_gone(self, blobs: Blob) -> None:
        digest = blobs.put(b"old")
        assert blobs.delete(digest)
        assert not blobs.delete(digest)
        assert not blobs.exists(digest)
        with pytest.raises(NotFound, match=digest):
            blobs.get(digest)

    @pytest.mark.parametrize("digest", ["", "abc", "../" * 22, "A" * 64])
    def test_what_is_no_hash_is_refused(self, blobs: Blob, digest: str) -> None:
        with pytest.raises(Misuse):
            blobs.get(digest)
