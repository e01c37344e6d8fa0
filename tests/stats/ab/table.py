"""The page docs/experiment-statistics.md, from the rates of the campaign in test_aa.py.

`pytest -m soak tests/stats/ab/test_aa.py` runs the campaign and writes the page. `python tests/stats/ab/table.py`
writes it again from build/soak.json.
"""

from __future__ import annotations

import json
from pathlib import Path

from campaign import FEW, RULES, WORLDS

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "experiment-statistics.md"
MORE = 10_000  # experiments on independent units, for the rules that are read once or at planned looks
NAMES = {
    "naive z-test at every look": "z-test of all rows, read every day",
    "naive z-test once": "z-test of all rows, read once",
    "fixed": "fixed time (Welch)",
    "fixed, days": "fixed time, days",
    "sequence": "confidence sequence",
    "sequence, days": "confidence sequence, days",
    "msprt": "mSPRT",
    "msprt, days": "mSPRT, days",
    "o'brien-fleming, 5 looks": "O'Brien-Fleming, 5 looks",
    "o'brien-fleming, 5 looks, days": "O'Brien-Fleming, 5 looks, days",
    "o'brien-fleming, 50 looks": "O'Brien-Fleming, 50 looks",
    "o'brien-fleming, 50 looks, days": "O'Brien-Fleming, 50 looks, days",
}


def rates(found: dict[str, float]) -> str:
    """A table of shares by rule and kind of experiment."""
    head = "| rule | " + " | ".join(world.name for world in WORLDS) + " |"
    rows = [head, "|---|" + "---|" * len(WORLDS)]
    for rule in RULES:
        cells = []
        for world in WORLDS:
            invalid = world.days_needed and "days" not in rule
            text = f"{100 * found[f'{world.name}: {rule}']:.1f} %"
            cells.append(f"({text})" if invalid or rule.startswith("naive") else text)
        rows.append(f"| {NAMES[rule]} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def few(found: dict[str, float]) -> str:
    rows = ["| days | error, independent units | error, effects that differ by day | width |", "|---|---|---|---|"]
    for days in FEW:
        plain, differ, width = (found[f"{days} days: {name}"] for name in ("independent", "differ", "width"))
        rows.append(f"| {days} | {100 * plain:.1f} % | {100 * differ:.1f} % | {width:.2f} |")
    return "\n".join(rows)


def page(nothing: dict[str, float], something: dict[str, float], runs: tuple[int, int]) -> str:
    return TEXT.format(
        nothing=rates(nothing),
        something=rates(something),
        few=few(nothing),
        runs=f"{runs[0]:,}",
        other=f"{runs[1]:,}",
        more=f"{MORE:,}",
    )


TEXT = """# Statistics of experiments

Error rates and power of the rules that compare two variants (`trimtab.stats.ab`), measured on drawn experiments. \
Written by `pytest -m soak tests/stats/ab/test_aa.py`, which takes about five minutes; do not edit by hand.

## Rules

| rule | when it may be read | what it guarantees |
|---|---|---|
| fixed time | once, at the time that was decided before the start | the interval contains the true difference \
with the stated level |
| O'Brien-Fleming | at the planned looks | all intervals together contain it with the stated level |
| confidence sequence, mSPRT | after every closed day, for as long as one likes | all intervals together contain \
it with the stated level |

Each rule exists with and without days as units of evidence. Without days, units are independent (means by Welch's\
 test, ratios by the delta method, quantiles by their linear form). With days, which is the default, the \
difference on each day is one observation, and the larger of two standard errors counts: that of the units within \
days, and that of the days. What all units of a day have in common cancels in both, where both variants have units\
 on that day. What days add to the variance of the units may be correlated from one day to the next; it is \
increased for a correlation of .4 ([D0213](decisions/D0213-statistics-of-experiments.md)).

Without days is right where units were assigned at random, each to one variant for the whole time, and the claim \
is about the days of the experiment only. Days are needed where all units of a time get the same variant (a \
switchback), and where the claim is about other days too.

## Errors: there is no effect

{runs} experiments of 50 days with a look after each ({more} with independent units for the rules that are read \
once or at planned looks), level .95. A share in brackets is that of a rule which does not claim to be valid \
there. In "effects that differ by day" the effect of a day has a standard deviation of 20 % of the base, with a \
correlation of .4; its mean over days is 0. This is the hardest case for the days, and no rate is stated for it.

{nothing}

The experiments: 200 units a day and variant with a base of 10 %, or lognormal values (skewness 6.2). Day effects:\
 standard deviation .15 in the logit, lag-1 correlation .4, traffic that varies by 30 %. Clustered units: 60 \
customers a day and variant with several rows each, whose logits have a standard deviation of 1. Switchback: six \
blocks a day, or whole days, each with one variant for all requests; blocks and days have effects.

## Power: +10 % of the base

{other} experiments each, as above, with 10,000 units of each variant (but for the clustered ones). A rule that is\
 not valid finds more effects, also where there are none.

{something}

## Few days

Readings at a fixed time with days. The width is that of the interval, divided by the width without days, for \
independent units.

{few}

Fewer than 14 days make wide intervals. The confidence sequence over days needs 3 days, and then finds only effects of \
13 standard errors; with 7 days, of 5; with 14 days, of 4.
"""


def main() -> None:
    rows = {row["name"]: row for row in json.loads((ROOT / "build" / "soak.json").read_text("utf-8"))}
    runs = [rows[name]["runs"] // len(WORLDS) for name in ("aa_tests", "power")]
    PAGE.write_text(page(rows["aa_tests"]["figures"], rows["power"]["figures"], (runs[0], runs[1])), "utf-8")


if __name__ == "__main__":
    main()
