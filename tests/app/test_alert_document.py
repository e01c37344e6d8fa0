"""The document of alerts: its settings are valid, and it has every key of a receiver and every line of the runbook."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from trimtab.app.inspect.skew_signals import SIGNAL as SKEW
from trimtab.core.alert_settings import Receiver
from trimtab.core.config import load_config
from trimtab.monitoring.alerts.runbook import RUNBOOK, todo
from trimtab.monitoring.inputs.checks.findings import KINDS as INPUTS
from trimtab.monitoring.quality.quality_signals import KINDS as QUALITY

DOCUMENT = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text("utf-8")


@pytest.mark.parametrize("text", re.findall(r"^```toml\n(.*?)^```$", DOCUMENT, flags=re.MULTILINE | re.DOTALL))
def test_the_settings_that_the_document_shows_are_valid(tmp_path: Path, text: str) -> None:
    (tmp_path / "trimtab.toml").write_text(text)
    assert load_config(tmp_path, {}).alerts.receivers or "keep" in text


def test_the_document_has_every_key_of_every_kind_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", DOCUMENT, flags=re.MULTILINE))
    for kind in Receiver.__args__:  # type: ignore[attr-defined]
        assert f"### {kind.__struct_config__.tag}\n" in DOCUMENT
        for field in msgspec.structs.fields(kind):
            default = [] if field.default_factory is not msgspec.NODEFAULT else field.default
            shown = "" if default is msgspec.NODEFAULT else "none" if default is None else json.dumps(default)
            key = field.encode_name
            assert rows[key].strip() == ("{}" if key == "headers" else shown), (kind, key)


@pytest.mark.parametrize("kind", list(RUNBOOK))
def test_every_line_of_the_runbook_has_its_place_in_the_document(kind: str) -> None:
    assert f"\n### {kind}\n" in DOCUMENT
    assert todo(kind) in DOCUMENT


def test_every_kind_of_signal_has_a_line_of_the_runbook() -> None:
    assert {*QUALITY, *INPUTS, SKEW} - set(RUNBOOK) == set()
