"""The OpenAPI document of a service: addresses, bodies, schemas, statuses."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from opened import copied
from snapshots import check

from trimtab.cli.group import trimtab

pytestmark = pytest.mark.fast


def current() -> str:
    """The document of the project beside this file, keys sorted."""
    unset = {name: None for name in os.environ if name.startswith("TRIMTAB_")}
    with TemporaryDirectory() as folder:
        copied(Path(folder))
        shown = CliRunner(env=unset).invoke(trimtab, ["service", "openapi", "--json", "--project", folder])
    assert shown.exit_code == 0, shown.output
    assert folder not in shown.stdout
    return json.dumps(json.loads(shown.stdout), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_openapi_document_is_as_before() -> None:
    check("openapi", current())
