"""What errors are on the wire."""

from __future__ import annotations

import msgspec
import pytest

from trimtab.serving.problems import decode_problem

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("body", [b"", b" \n"])
def test_an_empty_body_is_said_to_be_empty(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as refused:
        msgspec.json.decode(body)
    assert str(decode_problem(refused.value, body)) == "body: it is empty. Send one JSON value."
