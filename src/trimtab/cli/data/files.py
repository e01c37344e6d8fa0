"""The commands `ingest` and `predict`, which read files of events and of requests."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click
import msgspec

from trimtab.cli.exits import FAILED
from trimtab.cli.options import command, manner, names, opened_project, refuse_given, time_given
from trimtab.cli.output import progress, show, show_json, show_lines
from trimtab.core.errors import Misuse
from trimtab.core.shown import count_of
from trimtab.core.time import format_duration, format_time
from trimtab.events.files.opened import NOT_UTF8, encoding_advice
from trimtab.store.regular_file import regular_file

if TYPE_CHECKING:
    from trimtab.app.features.loading import Ingested

_WORD = re.compile(r"'[^0-9]+'")  # a text without digits in a column of numbers, times or bools
_NAMED = 5  # of the rows that could not become events, at most this many are shown
# a command succeeds if at most this share of the rows could not become events, or could not be answered
_FEW = 0.01
_TEXT = {".csv", ".tsv", ".ndjson", ".jsonl"}

_INGEST_SAFE = "What was taken is safe in the log; run the same command again: repeated rows do not count twice."


@command("ingest", safe=_INGEST_SAFE)
@click.argument("source", shell_complete=names("source"))
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--live", is_flag=True, help="The rows become known now, and not each at its own time plus the source's delay."
)
@click.option("--absent-as-null", is_flag=True, help="Accept a file without some declared columns; they become null.")
@click.option(
    "--max-refused",
    type=click.FloatRange(0, 1),
    default=_FEW,
    show_default=True,
    metavar="SHARE",
    help="The share of rows that may go to quarantine; if there are more, the exit status is 1.",
)
def ingest(source: str, file: Path, live: bool, absent_as_null: bool, max_refused: float) -> int:
    """Load a file of a source's history into the log.

    FILE ends in .csv, .tsv, .parquet, .ndjson, .jsonl, .feather or .arrow; - reads JSON lines (or Arrow) from standard
    input. Rows that do not fit go to quarantine and are counted. Columns that are not declared are named and left out.
    Loading a file again changes nothing. The exit status is 1 if more rows went to quarantine than --max-refused
    allows, or if no row was taken. Rows that fit are taken even then.

    \b
    Example:
      trimtab ingest landings landings.parquet
    """
    given = sys.stdin.buffer if str(file) == "-" else _there(file)
    with opened_project() as project, progress(f"ingesting {file.name}") as meter:
        taken = project.ingest(source, given, history=not live, absent_ok=absent_as_null, progress=meter)
    text = any(suffix in _TEXT for suffix in file.suffixes) or str(file) == "-"
    show(taken, _ingested(source, file, taken, "line" if text else "row"))
    share = taken.quarantined / max(1, taken.accepted + taken.quarantined)
    nothing = not taken.accepted and bool(taken.quarantined + taken.not_final)
    if share <= max_refused and not nothing:
        return 0
    if not manner().json:
        see = f"See: trimtab quarantine list {source}."
        said = f"{100 * share:.1f} % of the rows were NOT taken; they are in quarantine. {see}"
        said += " If so many are known to be wrong, allow them: --max-refused SHARE"
        if nothing:
            rows = "1 row is" if taken.quarantined == 1 else f"{taken.quarantined:,} rows are"
            said = f"Nothing was taken: {rows} in quarantine. {see}" if taken.quarantined else "Nothing was taken."
        show_lines([said], err=True)
    return FAILED


def _ingested(source: str, file: Path, taken: Ingested, unit: str) -> list[str]:
    rows = count_of(taken.accepted, "row")
    lines = [f"{source}: {rows} taken{_compared(taken)}, {taken.quarantined:,} quarantined"]
    if taken.ignored:
        lines.append(f"  columns that are not declared, left out: {', '.join(taken.ignored)}")
    if taken.not_final:
        lines.append(
            f"  {count_of(taken.not_final, 'row')} left out: they are dated less than the source's delay "
            "before the file's newest row, so their values may still change. They will be taken from a later file that "
            "contains them too. If the values in this file are final and became known now, load it with --live."
        )
    if taken.absent:
        lines.append(f"  columns that the file lacks, set to null: {', '.join(taken.absent)}")
    for p in taken.problems[:_NAMED]:
        what = f"{p.field} = {p.found}" if p.field else p.found
        lines.append(f"  {unit} {p.row + 1}: {what}: {p.reason}")
    if taken.quarantined > _NAMED:
        lines.append(f"  and {taken.quarantined - _NAMED:,} more; see: trimtab quarantine list {source}")
    lines += [f"  {encoding_advice(file)}" for p in taken.problems if p.found.startswith(NOT_UTF8)][:1]
    words = {p.found: None for p in taken.problems if p.reason == "wrong_type" and _WORD.fullmatch(p.found)}
    if words:
        listed = ", ".join(list(words)[:_NAMED])
        lines.append(
            f"  If such a word means that there is no value, add it to nulls=[{listed}] of {source!r} in project.py, "
            f"then: trimtab quarantine replay {source}"
        )
    return lines


def _compared(taken: Ingested) -> str:
    """Return how many of the accepted rows are new, in words."""
    if taken.new is None or taken.changed is None:
        return " (repeated rows count once)"
    counts = {"new": taken.new, "changed": taken.changed, "there before": taken.accepted - taken.new - taken.changed}
    return " (" + ", ".join(f"{count:,} {what}" for what, count in counts.items() if count or what == "new") + ")"


@command("predict", safe="Answers that were given are logged; run the same command again for the rest.")
@click.argument("model", shell_complete=names("model"))
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--row", "rows", multiple=True, metavar="JSON", help="One request as a JSON object; may be repeated.")
@click.option("--at", metavar="TIME", help="Answer as of this time (default: now; for FILE, each row's time).")
@click.option("--out", type=click.Path(path_type=Path), help="Where the answers to FILE go: .parquet or .csv.")
@click.option("--mode", type=click.Choice(["batch", "precomputed"]), default="batch", show_default=True)
@click.option("--again", is_flag=True, help="Answer FILE as a new batch, even if it was answered before.")
def predict(
    model: str, file: Path | None, rows: tuple[str, ...], at: str | None, out: Path | None, mode: str, again: bool
) -> int:
    """Answer a file of requests, or single rows.

    Every answer is logged under an id, by which `trimtab why` explains it. Rows of FILE that do not fit are listed and
    get no answer; when there are more than 1 % of them, the exit status is 1. A FILE that the same version answered
    before gets the same answers, unless --again or another --at is given. With --mode precomputed, the service also
    gives these answers while they are fresh.

    \b
    Example:
      trimtab predict late_flight flights.parquet --out predictions.parquet
      trimtab predict late_flight --row '{"flight_id": "x", "carrier": "UA", ...}'
    """
    if (file is None) == (not rows):
        raise click.UsageError("Give either FILE or --row JSON.")
    from trimtab.core.time import format_duration

    time_given("--at", at)
    if file is None:
        refuse_given("is for FILE: answers to --row are printed, and not stored as a batch.", "out", "mode", "again")
        _answer_rows(model, [_parsed(text) for text in rows], at)
        return 0
    _there(file)
    with opened_project() as project, progress(f"predicting {file.name}") as meter:
        chosen = cast(Literal["batch", "precomputed"], mode)
        made = project.predict_table(
            model, file, at=at, mode=chosen, out=out, on_error="skip", again=again, progress=meter
        )
        version = project.registry.get(made.version).name  # the name that single answers use
        request = project.definitions.models[model].request
    where = f", written to {out}" if out is not None else ", kept in the log; write them with --out answers.csv"
    answered = f"{count_of(made.rows, 'row')} answered by {version}{where} (batch {made.id})"
    lines = []
    if made.answered_before:
        when = format_time(made.made_at_us)[:19]
        lines.append(
            f"These rows were answered before, at {when}Z. These are the same answers, which do not use events that "
            "came since. To answer the rows again, add --again."
        )
    if made.not_at_lead:
        lines.append(
            f"{count_of(made.not_at_lead, 'row')} flagged not_at_lead: answered as of now, but the model learnt to "
            f"answer {format_duration(request.lead_us)} before {request.time!r}, and that time is more than a day away."
        )
    lines += [f"{count_of(len(made.unanswered), 'row')} not answered:"] if made.unanswered else []
    lines += [f"  {problem}" for problem in made.unanswered[:_NAMED]]
    if len(made.unanswered) > _NAMED:
        lines.append(f"  and {len(made.unanswered) - _NAMED:,} more; --json lists all")
    show(msgspec.structs.replace(made, version=version), [answered, *lines])
    return FAILED if len(made.unanswered) > _FEW * (made.rows + len(made.unanswered)) else 0


def _answer_rows(model: str, rows: list[dict[str, Any]], at: str | None) -> None:
    with opened_project() as project:
        answers = project.predict(model, rows, at=at)
        request = project.definitions.models[model].request
    for answer in answers:
        if manner().json:
            show_json(answer)
            continue
        flags = f"  flags: {', '.join(answer.flags)}" if answer.flags else ""
        said = f"{answer.score:.4g}" if answer.prediction is None else f"{answer.prediction} ({answer.score:.4g})"
        show_lines([f"{answer.request_id}  {said}  by {answer.version}  id {answer.id}{flags}"])
        show_lines(f"  {feature}: {reason}" for feature, reason in answer.reasons.items())
        if "not_at_lead" in answer.flags:
            lead = format_duration(request.lead_us)
            show_lines([
                f"  not_at_lead: this answer is as of now. The model learnt to answer {lead} before {request.time!r}, "
                "which for this row is more than a day before or after now. If it is in the past, answer as of then: "
                "--at TIME"
            ])  # fmt: skip


def _parsed(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise Misuse(f"--row: not JSON: {error}. Write an object: '{{\"column\": value, ...}}'") from error
    if not isinstance(row, dict):
        raise Misuse(f"--row: found a {type(row).__name__}. Give a JSON object: '{{\"column\": value, ...}}'")
    return row


def _there(file: Path) -> Path:
    if file.is_dir():
        raise Misuse(f"{file} is a folder, not a file. Give the path of one file in it at a time.")
    return regular_file(file)
