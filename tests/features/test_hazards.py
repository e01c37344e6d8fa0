"""Zero skew under every hazard: alone, in pairs, and all together; a table of reads and differences is printed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hazards import EVENTS, FEW, HAZARDS, KEYED, KEYED_ONLY, PLAIN, run

from trimtab import store
from trimtab.core.urls import store_url
from trimtab.events.definitions import Source
from trimtab.testing import MemoryKeyValue

PAIRS = list(itertools.combinations(HAZARDS, 2))


def fits(of: Source, hazards: Sequence[str]) -> bool:
    return of is KEYED or not KEYED_ONLY & set(hazards)


def campaign(groups: Sequence[Sequence[str]], seeds: range, events: int = EVENTS) -> tuple[int, int, list[str]]:
    """Streams, reads and differences over sources, groups of hazards and seeds."""
    streams = reads = 0
    wrong: list[str] = []
    for hazards in groups:
        for of in (KEYED, PLAIN):
            if fits(of, hazards):
                for seed in seeds:
                    some, differ = run(of, hazards, seed, MemoryKeyValue(), events)
                    streams += 1
                    reads += some
                    wrong += [f"{of.name}, {' + '.join(hazards)}, seed {seed}: {what}" for what in differ]
    return streams, reads, wrong


@pytest.mark.parametrize("hazard", HAZARDS)
def test_a_hazard_alone_changes_no_bit(hazard: str) -> None:
    _, reads, wrong = campaign([[hazard]], range(1), FEW)
    assert reads > 500
    assert not wrong, wrong[:3]


@pytest.mark.slow
def test_hazards_in_pairs_and_all_together_change_no_bit() -> None:
    _, reads, wrong = campaign([*PAIRS[::33], HAZARDS], range(1), FEW)
    assert reads > 5_000
    assert not wrong, wrong[:3]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_all_hazards_at_once_in_lmdb(seed: int, tmp_path: Path) -> None:
    kv = store.open(store_url("lmdb", tmp_path / "online"), "kv")
    reads, wrong = run(KEYED, HAZARDS, seed, kv)
    kv.close()
    assert reads
    assert not wrong, wrong[:3]


@pytest.mark.soak
def test_the_table_of_hazards_is_all_zeros(
    soak_report: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    lines, total, differences = [], 0, 0
    rows = [(hazard, [[hazard]], range(4)) for hazard in HAZARDS]
    rows += [("in pairs", PAIRS, range(1)), ("all together", [HAZARDS], range(20))]
    for name, groups, seeds in rows:
        streams, reads, wrong = campaign(groups, seeds)
        lines.append(f"{name:22} {streams:6,} streams {reads:9,} reads {len(wrong):4} differences")
        total, differences = total + reads, differences + len(wrong)
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    soak_report("feature_hazards", runs=total, failures=differences, figures={"hazards": len(HAZARDS)})
    assert differences == 0
