"""The command `label`, which reads the true values of predictions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trimtab.cli.exits import FAILED
from trimtab.cli.options import command, opened_project
from trimtab.cli.output import progress, show
from trimtab.core.shown import count_of
from trimtab.store.regular_file import regular_file

if TYPE_CHECKING:
    from trimtab.app.data.label_tables import LabelsTaken

_SHORT = 100  # a kind of reason is shown in full once, and after that up to this many characters
_VALUES = re.compile(r"'[^']*'|[0-9][0-9T:.Z-]*")  # what differs in reasons of the same kind
_NAMED = 10  # at most this many of the refused labels are shown


@command("label", safe="Labels that were taken are safe in the log; run the same command again for the rest.")
@click.argument("file", type=click.Path(path_type=Path))
def label(file: Path) -> int:
    """Load labels from a file with the ids of predictions.

    FILE has the columns prediction, prediction_id or id (the id of an answer), value (true or false, the number or the
    class) and, optionally, at (the time of the outcome). It ends in .csv, .tsv, .parquet, .ndjson, .jsonl, .feather or
    .arrow. The other columns of a label's event are taken from the request of its prediction. Labels that cannot be
    taken are listed, and the exit status is then 1.

    \b
    Example:
      trimtab label outcomes.csv
    """
    regular_file(file)
    with opened_project() as project, progress(f"labelling from {file.name}") as meter:
        taken = project.label_table(file, progress=meter)
    show(taken, label_lines(taken))
    return FAILED if taken.refused else 0


def label_lines(taken: LabelsTaken) -> list[str]:
    """Return what became of labels as lines of text."""
    models = "".join(f", {count:,} of {model}" for model, count in taken.models.items() if len(taken.models) > 1)
    lines = [f"{count_of(taken.accepted, 'label')} taken{models}, {taken.refused:,} refused"]
    counted = {truth: [text for text, as_ in taken.counted_as.items() if as_ == truth] for truth in ("true", "false")}
    lines += [f"  counted as {truth}: {', '.join(map(repr, texts))}" for truth, texts in counted.items() if texts]
    if taken.late:
        lines.append(
            f"  {taken.late:,} came after the label's wait: models learn from them, but closed days do not change"
        )
    if taken.ignored:
        lines.append(f"  columns that no source of labels declares, left out: {', '.join(taken.ignored)}")
    seen = set[str]()
    for one in taken.problems[:_NAMED]:
        named = f", {one.prediction}" if one.prediction and one.prediction not in one.reason else ""
        kind = _VALUES.sub("", one.reason)
        reason = f"{one.reason[:_SHORT]}..." if kind in seen and len(one.reason) > _SHORT else one.reason
        seen.add(kind)
        lines.append(f"  {one.place}{named}: {reason}")
    if taken.refused > _NAMED:
        lines.append(f"  and {taken.refused - _NAMED:,} more")
    return lines
