"""Packs: many payloads in one, stored in columns. Bytes that all payloads have in common are stored once.

A pack begins with the size of its head. The head, in msgpack, is the number of payloads and, for each part, its kind
and its size. The parts follow. A payload is the concatenation of its bytes in every part.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

if TYPE_CHECKING:  # NumPy is imported at the first use, so that `import trimtab` is fast
    from numpy.typing import NDArray


class Ragged(msgspec.Struct, frozen=True, eq=False):
    """The bytes of each payload in a part, one after another, and the number of bytes of each."""

    data: bytes
    sizes: NDArray[Any]

    @classmethod
    def of(cls, pieces: Sequence[bytes]) -> Ragged:
        """Return the bytes of each payload as one object."""
        import numpy as np

        return cls(b"".join(pieces), np.fromiter(map(len, pieces), np.int64, len(pieces)))


class Mirrored(msgspec.Struct, frozen=True, eq=False):
    """Eight bytes of each payload: those of a 64-bit number in `matrix`, in reverse order. `matrix` is another part."""

    matrix: NDArray[Any]
    column: int


# bytes that all payloads have in common; or a uint8 matrix with one row for each payload; or the bytes of each payload
Part: TypeAlias = "bytes | NDArray[Any] | list[bytes] | Ragged | Mirrored"

# The kinds of parts. A piece is the bytes of one payload in a part. Numbers in parts are uint32. `_SAME`: the piece of
# all payloads. `_FIXED`: pieces of one size. `_RAGGED`: offsets (one more than there are payloads), then the pieces.
# `_MIRRORED`: the number of another part, and where the eight bytes begin in its pieces. `_LED`: the size of the start
# that all pieces share, this start, then the rest of each piece. `_REPEATED`: the number of an equal part.
_SAME, _FIXED, _RAGGED, _MIRRORED, _LED, _REPEATED = range(6)
_PLACE = struct.Struct("<II")
_SIZE = struct.Struct("<I")
_COMPARED = 64  # two different parts usually differ in their first 64 bytes
_LEAST = 3  # if all pieces of a part begin with fewer equal bytes than this, the part is stored as it is


class _Head(msgspec.Struct, frozen=True, array_like=True):
    rows: int
    parts: list[tuple[int, int]]


_decode_head = msgspec.msgpack.Decoder(_Head).decode


def pack(rows: int, parts: Sequence[Part]) -> bytes:
    """Return a pack of `rows` payloads, made of these parts.

    >>> two = pack(2, [b"x=", [b"1", b"10"], b";"])
    >>> packed_rows(two), unpack(two)
    (2, [b'x=1;', b'x=10;'])
    """
    import numpy as np

    kinds: list[tuple[int, int]] = []
    blobs: list[bytes] = []
    known: dict[tuple[int, int, bytes], int] = {}  # parts by their kind, their size and their first bytes
    arrays = {part.ctypes.data: place for place, part in enumerate(parts) if isinstance(part, np.ndarray)}
    matrices = {id(part.matrix): part.matrix for part in parts if isinstance(part, Mirrored)}
    mirrored = {key: arrays[matrix.ctypes.data] for key, matrix in matrices.items()}
    for place, part in enumerate(parts):
        if isinstance(part, bytes):
            kind, blob = _SAME, part
        elif isinstance(part, Mirrored):
            kind, blob = _MIRRORED, _PLACE.pack(mirrored[id(part.matrix)], 8 * part.column)
        elif isinstance(part, (list, Ragged)):
            ragged = part if isinstance(part, Ragged) else Ragged.of(part)
            kind, blob = _FIXED, ragged.data
            if not rows or (ragged.sizes != ragged.sizes[0]).any():
                offsets = np.zeros(rows + 1, "<u4")
                ragged.sizes.cumsum(out=offsets[1:])
                kind, blob = _RAGGED, offsets.tobytes() + blob
        else:
            kind, blob = _FIXED, np.ascontiguousarray(part, np.uint8).tobytes()
        # a part stays as it is if another part mirrors it
        if kind in (_FIXED, _RAGGED) and rows and place not in mirrored.values():
            before = known.setdefault((kind, len(blob), blob[:_COMPARED]), len(blobs))
            if before < len(blobs) and kinds[before][0] == kind and blobs[before] == blob:
                kind, blob = _REPEATED, _SIZE.pack(before)
            elif kind == _FIXED:
                kind, blob = _led(blob, rows)
        kinds.append((kind, len(blob)))
        blobs.append(blob)
    head = msgspec.msgpack.encode(_Head(rows, kinds))
    return b"".join([_SIZE.pack(len(head)), head, *blobs])


def _led(blob: bytes, rows: int) -> tuple[int, bytes]:
    """Return the kind and the bytes of a part whose pieces have one size. The start that all share is stored once."""
    import numpy as np

    matrix = np.frombuffer(blob, np.uint8).reshape(rows, len(blob) // rows)
    differs = (matrix[[rows // 2, -1]] != matrix[0]).any(axis=0)
    lead = int(differs.argmax()) if differs.any() else matrix.shape[1]
    if lead < _LEAST or not (matrix[:, :lead] == matrix[0, :lead]).all():
        return _FIXED, blob
    return _LED, _SIZE.pack(lead) + matrix[0, :lead].tobytes() + matrix[:, lead:].tobytes()


def packed_rows(packed: bytes) -> int:
    """Return the number of payloads in a pack."""
    return _head(packed)[0].rows


def unpack(packed: bytes, start: int = 0, stop: int | None = None) -> list[bytes]:
    """Return the payloads of a pack, from number `start` up to, but not including, number `stop`."""
    import numpy as np

    head, at = _head(packed)
    stop = head.rows if stop is None else stop
    rows = stop - start
    if rows <= 0:
        return []
    begins = [*accumulate((size for _, size in head.parts), initial=at)]
    runs: list[list[bytes]] = []
    fixed: list[NDArray[Any]] = []  # neighbouring parts whose bytes have one size

    def end_run() -> None:
        if any(part.shape[1] for part in fixed):
            parts = [np.broadcast_to(part, (rows, part.shape[1])) for part in fixed]
            matrix = np.ascontiguousarray(np.concatenate(parts, axis=1))
            runs.append(matrix.view(f"V{matrix.shape[1]}").ravel().tolist())  # each row becomes one element
        fixed.clear()

    def rows_of(number: int) -> NDArray[Any]:
        part = np.frombuffer(packed, np.uint8, head.parts[number][1], begins[number])
        return part.reshape(head.rows, len(part) // head.rows)[start:stop]

    for place, (of_kind, _) in enumerate(head.parts):
        number = _SIZE.unpack_from(packed, begins[place])[0] if of_kind == _REPEATED else place
        (kind, size), at = head.parts[number], begins[number]
        if kind == _RAGGED:
            end_run()
            bounds = np.frombuffer(packed, "<u4", head.rows + 1, at)[start : stop + 1].tolist()
            first = at + 4 * (head.rows + 1)
            text = packed[first + bounds[0] : first + bounds[-1]]
            runs.append([text[a - bounds[0] : b - bounds[0]] for a, b in pairwise(bounds)])
        elif kind == _MIRRORED:
            of, first = _PLACE.unpack_from(packed, at)
            fixed.append(rows_of(of)[:, first : first + 8][:, ::-1])
        elif kind == _LED:
            lead = _SIZE.size + _SIZE.unpack_from(packed, at)[0]
            rest = np.frombuffer(packed, np.uint8, size - lead, at + lead).reshape(
                head.rows, (size - lead) // head.rows
            )
            fixed += [np.frombuffer(packed, np.uint8, lead, at)[None, _SIZE.size :], rest[start:stop]]
        else:
            fixed.append(np.frombuffer(packed, np.uint8, size, at)[None] if kind == _SAME else rows_of(number))
    end_run()
    if not runs:
        return [b""] * rows
    return runs[0] if len(runs) == 1 else list(map(b"".join, zip(*runs, strict=True)))


def _head(packed: bytes) -> tuple[_Head, int]:
    """Return the head of a pack, and where its first part begins."""
    end = _SIZE.size + _SIZE.unpack_from(packed)[0]
    return _decode_head(memoryview(packed)[_SIZE.size : end]), end
