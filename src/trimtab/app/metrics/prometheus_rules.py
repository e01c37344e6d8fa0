"""Alerting rules for Prometheus and unit tests of these rules, for the metrics of this version of trimtab."""

from __future__ import annotations

from importlib.resources import files

RULES, TESTS = "trimtab.rules.yml", "trimtab.rules.test.yml"
_RUNBOOK, _HERE = "runbook_url: ", "docs/"


def rules_text(name: str = RULES, *, docs: str | None = None) -> str:
    """Return the text of the file with the rules, or of the file with their tests.

    Args:
        name: The name of the file: `RULES` or `TESTS`.
        docs: The URL of the folder `docs`, used in links to runbooks. Without it, the links are relative.
    """
    text = (files("trimtab.app.metrics") / "prometheus" / name).read_text("utf-8")
    return text if docs is None else text.replace(_RUNBOOK + _HERE, f"{_RUNBOOK}{docs.rstrip('/')}/")
