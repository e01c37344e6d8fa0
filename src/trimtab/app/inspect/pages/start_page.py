"""Write the first HTML page of a running service: what is red, its models, its sources and the newest decisions."""

from __future__ import annotations

from trimtab.app.experiments.assigning import experiments
from trimtab.app.inspect.quality import version_name
from trimtab.app.inspect.status import project_status
from trimtab.app.inspect.status_text import Status
from trimtab.app.system import System
from trimtab.core.records import Decision
from trimtab.core.time import format_time
from trimtab.report import Document, Link, Table, html_page
from trimtab.steering.ledger import Ledger

_MOST_DECISIONS = 20


def start_page(system: System) -> str:
    """Return a self-contained HTML page about the whole project, with links to the pages of its models."""
    status = project_status(system)
    page = Document(system.config.project.name, f"As of {_minute(status.at)} UTC.")
    if status.frozen:
        page.note("Automation is frozen: nothing is retrained, promoted or rolled back automatically.", "warning")
    for line in status.red:
        page.note(line, "bad")
    if not status.red:
        page.note("Nothing is red.", "good")
    for one in status.deployments:
        if one.ungated is not None:
            page.note(f"{one.model}: NOT GATED: {one.ungated}", "warning")
    for signal in status.signals:
        if signal.severity == "info" and signal.ended_at_us is None:
            page.note(f"{signal.model}: {signal.message}", "plain")
    _models(page, status)
    _experiments(page, system, status)
    _sources(page, status)
    _decisions(page, system, Ledger(system.state.catalog).rows())
    page.heading("Other pages")
    page.table(
        Table(
            headers=("page", "what it shows"),
            rows=(
                (Link("/docs", "/docs"), "every address of this service, with forms to try it"),
                (Link("/metrics", "/metrics"), "metrics for Prometheus"),
                (Link("/v1/models", "/v1/models"), "the models in JSON"),
            ),
        )
    )
    return html_page(page)


def _models(page: Document, status: Status) -> None:
    page.heading("Models")
    if not status.deployments:
        page.paragraph("The project file declares no deployment.")
    rows = tuple(
        (
            Link(one.model, f"/v1/models/{one.model}/page"),
            one.version or "nothing; run: trimtab train",
            "" if one.since is None else _minute(one.since),
            "; ".join([one.watch, *(f"{arm}: {what}" for arm, what in one.beside.items())]),
            one.phase,
        )
        for one in status.deployments
    )
    page.table(Table(headers=("model", "in service", "since", "quality", "the loop"), rows=rows))


def _experiments(page: Document, system: System, status: Status) -> None:
    found = experiments(system)
    if found:
        page.heading("Experiments")
    rows = tuple(
        (
            one.name if one.started_at_us is None else Link(one.name, f"/v1/experiments/{one.name}/page"),
            one.phase,
            "" if one.started_at_us is None else _minute(format_time(one.started_at_us)),
            status.experiments.get(one.name, "" if one.winner is None else f"winner: {one.winner}"),
        )
        for one in found
    )
    page.table(Table(headers=("experiment", "phase", "started", "what it says"), rows=rows, wraps=True))


def _sources(page: Document, status: Status) -> None:
    page.heading("Sources")
    rows = tuple(
        (one.name, one.events, "none yet" if one.newest is None else _minute(one.newest), sum(one.quarantined.values()))
        for one in status.sources
    )
    page.table(Table(headers=("source", "events", "newest event", "rows in quarantine"), rows=rows))


def _decisions(page: Document, system: System, decisions: list[Decision]) -> None:
    page.heading("Newest decisions")
    if not decisions:
        page.paragraph("Nothing yet.")
    rows = tuple(
        (
            _minute(format_time(one.at_us)),
            one.model,
            one.act,
            "" if one.version is None else version_name(system, one.version),
            one.actor,
            one.cause,
        )
        for one in decisions[: -_MOST_DECISIONS - 1 : -1]
    )
    page.table(Table(headers=("when", "model", "what", "version", "who", "why"), rows=rows))


def _minute(at: str) -> str:
    return at[:16].replace("T", " ")
