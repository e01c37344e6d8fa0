"""What errors are on the wire."""

from __future__ import annotations

import msgspec
import pytest

from trimtab.features.exact_rows import SumOverflow
from trimtab.serving.problems import decode_problem, problem_of

pytestmark = pytest.mark.fast


def test_a_sum_that_does_not_fit_is_no_fault_of_the_request() -> None:
    error = SumOverflow(2**63, "feature 'total'").of("carrier", {"carrier": "UA"})
    problem = problem_of(error, "/v1/models/m/predict")
    assert (problem.status, problem.type) == (500, "urn:trimtab:problem:feature-overflow")
    assert problem.title == "A feature cannot be computed as it is defined"
    assert problem.detail.startswith(f"view 'carrier', feature 'total', carrier 'UA': the sum {2**63} does not fit")


@pytest.mark.parametrize("body", [b"", b" \n"])
def test_an_empty_body_is_said_to_be_empty(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as refused:
        msgspec.json.decode(body)
    assert str(decode_problem(refused.value, body)) == "body: it is empty. Send one JSON value."
