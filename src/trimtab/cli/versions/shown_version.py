"""What `trimtab versions show` prints."""

from __future__ import annotations

import msgspec

from trimtab.registry import Version
from trimtab.registry.describing.signature import Signature
from trimtab.training.fitting.path_choice import RowChoice


class ShownVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version with what is known of it."""

    version: Version
    signature: Signature
    tags: list[str]
    aliases: list[str]  # that point to it now
    row_calls: list[RowChoice]  # how it scores a single row, by machine
