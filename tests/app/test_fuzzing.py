"""Whatever is asked, as the OpenAPI document says or not: no fault of the server, and answers as the document says."""

from __future__ import annotations

import os
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import shop

import forked
from trimtab.core.time import format_time

AS_OF = format_time(shop.NOW_US)
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
    "missing_required_header",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
)


def fuzz(
    folder: Path, asker: Path, phases: str, examples: int, *, seed: int = 1, seconds: int | None = None
) -> tuple[int, str]:
    """How many requests schemathesis made of a served project, each of them answered as it must be.

    With `seconds`, fuzzing and sequences of requests are repeated for so long.
    """
    with shop.opened(folder) as project:
        key = project.keys.add("fuzz", ["admin"])
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", "--no-color", "--seed", str(seed)]
    command += [] if seconds is None else ["--max-time", str(seconds)]
    command += ["--checks", ",".join(CHECKS), "--phases", phases, "--max-examples", str(examples)]
    command += ["--generation-database", "none", "--header", f"Authorization: Bearer {key}"]
    command += ["--header", "X-Timeout-Ms: 60000"]  # else some are given less time than anything takes
    with shop.serving(folder, "--as-of", AS_OF) as (process, url):
        done = forked.run([*command, f"{url}/openapi.json"], cwd=asker, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
        assert process.poll() is None
        process.terminate()
        assert process.wait(timeout=60) == 0
        complaints = process.stderr.read()
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found is not None
    assert found[1] == found[2]
    assert "Traceback" not in complaints
    return int(found[1]), done.stdout


@pytest.mark.slow
def test_nothing_that_is_asked_is_a_fault_of_the_server(trained: Path, tmp_path: Path) -> None:
    requests, said = fuzz(trained, tmp_path, "fuzzing", 5)
    assert requests > 100
    assert "Open API 3.1" in said


@pytest.mark.soak
def test_nothing_that_is_asked_for_long_is_a_fault_of_the_server(
    trained: Path, tmp_path: Path, soak_report: Any
) -> None:
    seed = random.SystemRandom().randrange(1 << 31)  # other requests each time
    seconds = int(os.environ.get("TRIMTAB_SOAK_FUZZ_S", "600"))
    requests, _ = fuzz(trained, tmp_path, "coverage,fuzzing,stateful", 100, seed=seed, seconds=seconds)
    soak_report("fuzz_http", runs=requests, failures=0, seconds=seconds, seed=seed)
