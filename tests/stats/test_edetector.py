import itertools
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import Misuse
from trimtab.stats import (
    AlarmSide,
    AlarmSpec,
    AlarmState,
    Onset,
    alarm_onset,
    bounded_losses,
    learn_alarm,
    log_loss_rows,
    update_alarm,
)
from trimtab.stats.inference.edetector import LOW, alarm_threshold, newest_steps, shifted_alarm

PLAIN = AlarmSpec(  # values are their own surprise
    run_length=100.0,
    mean=0.0,
    sd=1.0,
    correlation=0.0,
    least_rows=0,
    reference_blocks=60,
    sides=(AlarmSide(sign=1, baseline=0.1, stakes=(0.2, 0.5)), AlarmSide(sign=-1, baseline=0.0, stakes=(0.3,))),
)
WHITENED = msgspec.structs.replace(PLAIN, mean=0.3, sd=0.7, correlation=0.4)


def days(rng, count, correlation, kind):
    """Healthy day values of mean 0 and sd 1, after a burn-in."""
    draw = {
        "gaussian": rng.standard_normal,
        "skewed": lambda n: rng.gamma(1.0, 1.0, n) - 1.0,
        "heavy": lambda n: rng.standard_t(4, n) / math.sqrt(2.0),
    }[kind]
    noise = draw(count + 30)
    for i in range(1, noise.size):
        noise[i] = correlation * noise[i - 1] + math.sqrt(1 - correlation**2) * noise[i]
    return noise[30:]


def run(spec, values, state=None):
    state = state or AlarmState()
    for value in values:
        state = update_alarm(spec, state, float(value))
        if state.alarm_day:
            break
    return state


def first_alarms(
    streams,
    horizon,
    reference,
    correlation,
    kind,
    *,
    shift=0.0,
    healthy=0,
    direction="up",
    seed=0,
    low=LOW,
    stated=1000,
):
    """The first alarm day of each stream, each with a reference of its own; infinity where none came."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(streams):
        values = days(rng, reference + horizon, correlation, kind)
        values[reference + healthy :] += shift
        spec = learn_alarm(values[:reference], run_length=stated, direction=direction, low=low)
        found.append(run(spec, values[reference:]).alarm_day or math.inf)
    return np.array(found)


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=25), st.sampled_from([PLAIN, WHITENED]))
def test_the_running_value_is_the_sum_over_all_starts_of_what_the_bets_pay(values, spec):
    state = AlarmState()
    last, gains = 0.0, []  # gains[day][bet]
    for value in values:
        state = update_alarm(spec, state, value)
        surprise = (value - spec.mean - spec.correlation * last) / spec.sd
        last = min(max(value - spec.mean, -8.0 * spec.sd), 8.0 * spec.sd)
        gains.append(
            [
                1 + stake * (min(max(side.sign * surprise, -1.5), 4.0) - side.baseline)
                for side in spec.sides
                for stake in side.stakes
            ]
        )
    sums = [sum(math.prod(g[bet] for g in gains[k:]) for k in range(len(gains))) for bet in range(3)]
    assert state.log_evidence == pytest.approx(math.log(sum(sums) / 3), abs=1e-9)


@pytest.mark.fast
def test_on_a_stream_at_its_baseline_the_expected_evidence_is_the_number_of_days():
    # A skewed two-point distribution with mean 0.1: 3.1 with chance 1/3, -1.4 with chance 2/3.
    spec = msgspec.structs.replace(PLAIN, sides=PLAIN.sides[:1], run_length=1e9)
    expected = 0.0
    for path in itertools.product(((3.1, 1 / 3), (-1.4, 2 / 3)), repeat=8):
        state = run(spec, [value for value, _ in path])
        expected += math.prod(chance for _, chance in path) * math.exp(state.log_evidence)
    assert expected == pytest.approx(8.0, rel=1e-9)


@pytest.mark.parametrize(
    ("reference", "correlation", "kind", "low"),
    [
        (14, 0.4, "gaussian", LOW),
        (28, 0.4, "skewed", LOW),
        (60, 0.4, "gaussian", LOW),
        (60, 0.4, "skewed", LOW),
        (60, 0.0, "heavy", LOW),
        (28, 0.4, "heavy", -0.75),  # as slices are watched
        (84, 0.4, "skewed", -0.75),
    ],
)
def test_healthy_streams_alarm_within_h_days_no_oftener_than_h_of_the_run_length(reference, correlation, kind, low):
    found = first_alarms(200, 300, reference, correlation, kind, direction="up", seed=reference, low=low)
    for horizon in (50, 100, 300):
        promise = horizon / 1000
        slack = 2 * math.sqrt(promise * (1 - promise) / 200)
        assert np.mean(found <= horizon) <= promise + slack, (horizon, np.mean(found <= horizon))


def run_lengths(streams, horizon, reference, run_length, *, weekly=0.0, seed=0):
    """Days to the first alarm of healthy streams, cut at the horizon."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(streams):
        values = days(rng, reference + horizon, 0.4, "skewed")
        values += weekly * np.sin(2 * np.pi * (np.arange(values.size) + rng.integers(7)) / 7)
        spec = learn_alarm(values[:reference], run_length=run_length)
        found.append(run(spec, values[reference:]).alarm_day or horizon)
    return np.array(found)


def test_the_mean_run_length_of_healthy_streams_is_at_least_the_stated_one():
    assert run_lengths(120, 400, 28, 50).mean() >= 50  # cut at 400 days, so the true mean is longer


def test_a_pattern_of_the_week_is_not_a_change():
    assert np.mean(run_lengths(100, 150, 28, 500, weekly=1.5) < 150) <= 0.3


def test_watching_both_directions_keeps_the_same_promise():
    found = first_alarms(200, 300, 28, 0.4, "gaussian", direction="both", seed=3)
    assert np.mean(found <= 300) <= 0.3


def test_days_of_real_loss_rows_with_day_effects_keep_the_promise():
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(60):
        effects = days(rng, 188, 0.4, "gaussian")
        values, rows = [], []
        for effect in effects:
            n = int(rng.integers(100, 400))
            scores = rng.beta(2, 6, n)
            truth = 1 / (1 + np.exp(-(np.log(scores / (1 - scores)) + 0.35 * effect)))
            losses = bounded_losses(log_loss_rows(rng.random(n) < truth, scores))
            values.append(float(losses.mean()))
            rows.append(n)
        spec = learn_alarm(values[:28], rows[:28], run_length=1000)
        state = AlarmState()
        for value, n in zip(values[28:], rows[28:], strict=True):
            state = update_alarm(spec, state, value, n)
        alarms += state.alarm_day is not None
    assert alarms / 60 <= 0.16 + 2 * math.sqrt(0.16 * 0.84 / 60)


@pytest.mark.parametrize(
    ("correlation", "shift", "within"), [(0.0, 2.0, 14), (0.0, 1.0, 30), (0.4, 2.0, 18), (0.4, 1.0, 45)]
)
def test_four_in_five_shifts_of_the_mean_are_found_in_weeks(correlation, shift, within):
    found = first_alarms(100, 150, 60, correlation, "gaussian", shift=shift, healthy=20, seed=8)
    changed = found[found > 20]
    assert np.mean(changed <= 20 + within) >= (0.8 if shift == 2.0 else 0.6)


def test_a_fall_is_found_by_both_directions_and_never_by_up():
    assert np.median(first_alarms(30, 80, 60, 0.4, "gaussian", shift=-2.0, direction="both")) < 40
    assert np.isinf(first_alarms(30, 80, 60, 0.4, "gaussian", shift=-2.0, direction="up")).mean() > 0.95


def test_the_onset_stays_known_when_its_days_are_no_longer_kept():
    rng = np.random.default_rng(8)
    spec, state = learn_alarm(days(rng, 60, 0.4, "gaussian")), AlarmState()
    before = None
    for number, value in enumerate(days(rng, 200, 0.4, "gaussian")):
        state = newest_steps(spec, update_alarm(spec, state, value + 2.0 * (number >= 30)), 40)
        if number == 60:
            before = alarm_onset(spec, state)
    assert before is not None
    assert abs(before.day - 31) <= 2
    assert alarm_onset(spec, state) == before
    assert len(state.recent) == 40
    quiet = AlarmState()
    for value in days(rng, 100, 0.4, "gaussian"):
        quiet = newest_steps(spec, update_alarm(spec, quiet, value), 40)
    assert (quiet.alarm_day, quiet.onset) == (None, None)


def test_the_onset_is_dated_and_its_range_mostly_holds_the_true_day():
    rng = np.random.default_rng(4)
    held, errors = 0, []
    for _ in range(80):
        values = days(rng, 260, 0.4, "gaussian")
        values[60 + 40 :] += 1.5
        spec = learn_alarm(values[:60])
        state = run(spec, values[60:])
        onset = alarm_onset(spec, state)
        assert onset.earliest <= onset.day <= onset.latest <= state.alarm_day
        held += onset.earliest <= 41 <= onset.latest
        errors.append(abs(onset.day - 41))
    assert held >= 0.8 * 80
    assert np.median(errors) <= 4


def test_one_monstrous_day_is_no_alarm_and_stays_finite():
    spec = learn_alarm(days(np.random.default_rng(0), 28, 0.4, "gaussian"))
    state = run(spec, [0.0] * 10 + [1e12])
    assert state.alarm_day is None
    assert state.last == 8.0 * spec.sd
    state = run(spec, [1e300, -1e300] * 20, state)
    assert math.isfinite(state.log_evidence)


def test_the_alarm_day_stays_when_the_stream_recovers():
    spec = learn_alarm(days(np.random.default_rng(0), 60, 0.0, "gaussian"))
    state = AlarmState()
    for value in [3.0] * 20 + [-1.0] * 200:
        state = update_alarm(spec, state, value)
    assert state.alarm_day is not None
    assert state.alarm_day <= 20
    assert len(state.recent) <= 366


@pytest.mark.parametrize("seed", range(10))
def test_an_alarm_that_a_large_rise_completes_is_dated_to_it_and_not_to_the_small_rise_before(seed):
    rng = np.random.default_rng(seed)
    spec = learn_alarm(rng.normal(0.5, 0.01, 28), run_length=1_000)
    state = AlarmState()
    while state.log_evidence < alarm_threshold(spec) - 1.5:
        state = update_alarm(spec, state, rng.normal(0.515, 0.005))
    large = state.days + 1
    while state.alarm_day is None:  # one or two days of the large rise complete the evidence of the small one
        state = update_alarm(spec, state, rng.normal(0.7, 0.01))
    assert alarm_onset(spec, state) == Onset(day=large, earliest=large, latest=large)


@pytest.mark.parametrize("seed", range(10))
def test_a_large_rise_during_an_alarm_is_found_in_days(seed):
    rng = np.random.default_rng(seed)
    spec = learn_alarm(rng.normal(0.5, 0.01, 28), run_length=1_000)
    state = AlarmState()
    while state.alarm_day is None:
        state = update_alarm(spec, state, rng.normal(0.53, 0.005))
    further, on = shifted_alarm(spec, state), AlarmState()
    for _ in range(4):
        on = update_alarm(further, on, rng.normal(0.7, 0.01))
    assert on.alarm_day is not None
    calm = AlarmState()
    for _ in range(30):
        calm = update_alarm(further, calm, rng.normal(0.53, 0.005))
    assert calm.alarm_day is None


@pytest.mark.parametrize(("size", "correlation"), [(3.0, 0.0), (10.0, 0.0), (3.0, 0.4), (10.0, 0.4)])
def test_a_small_deviation_before_a_change_does_not_move_its_date(size, correlation):
    """A new version is often a little worse than its reference from its first day on, long before the world changes."""
    rng, early = np.random.default_rng(3), []
    for _ in range(100):
        values = days(rng, 28 + 100, correlation, "gaussian")
        values[28:] += 0.7
        values[28 + 15 :] += size
        spec = learn_alarm(values[:28], run_length=1_000, direction="both")
        state = run(spec, values[28:])
        if state.alarm_day > 15:
            early.append(alarm_onset(spec, state).day < 16 - 5)
    assert np.mean(early) <= 0.15  # with bets, it was .6 to .75


def test_days_without_rows_pass_without_a_bet_and_small_days_are_pooled():
    rows = [100] * 20
    spec = learn_alarm(days(np.random.default_rng(1), 20, 0.2, "gaussian"), rows)
    assert spec.least_rows == 50
    empty = update_alarm(spec, AlarmState(), float("nan"), 0)
    assert (empty.days, empty.log_evidence, alarm_onset(spec, empty)) == (1, -math.inf, None)
    state = update_alarm(spec, empty, 1.0, 30)
    assert state.log_evidence == -math.inf
    state = update_alarm(spec, state, 2.0, 60)
    assert update_alarm(spec, update_alarm(spec, AlarmState(), 1.0, 30), 2.0).pooled_rows == 0
    direct = update_alarm(spec, AlarmState(), (30 * 1.0 + 60 * 2.0) / 90, 90)
    assert state.log_evidence == pytest.approx(direct.log_evidence)
    assert (state.days, state.recent[0].day, state.pooled_rows) == (3, 2, 0)


def test_fewer_reference_days_give_a_wider_baseline():
    rng = np.random.default_rng(2)
    bounds = {
        n: np.mean([learn_alarm(days(rng, n, 0.4, "gaussian")).sides[0].baseline for _ in range(50)])
        for n in (12, 28, 60)
    }
    assert bounds[12] > bounds[28] > bounds[60] > 0.0


def test_spec_and_state_survive_json_and_go_on_with_the_same_bits():
    values = days(np.random.default_rng(9), 60, 0.4, "skewed")
    spec = learn_alarm(values[:30], direction="both")
    straight = run(spec, values[30:])
    half = run(spec, values[30:45])
    spec = msgspec.json.decode(msgspec.json.encode(spec), type=AlarmSpec)
    half = msgspec.json.decode(msgspec.json.encode(half), type=AlarmState)
    assert run(spec, values[45:], half) == straight


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.1] * 6, "at least 7 reference days, found 6"),
        ([0.1] * 12, "never varies"),
        ([0.1, float("nan")] * 6, "6 reference values are not finite"),
    ],
)
def test_unfit_references_are_refused(values, words):
    with pytest.raises(Misuse, match=words):
        learn_alarm(values)


def test_a_day_that_is_not_a_number_is_refused():
    with pytest.raises(Misuse, match="rows=0 for a day without labels"):
        update_alarm(PLAIN, AlarmState(), float("nan"), 5)


@pytest.mark.soak
def test_measure_onsets(capsys):
    """Print the table of onsets of D0003."""
    lines = []
    for small, size, correlation, kind in (
        (0.0, 1.0, 0.0, "gaussian"),
        (0.0, 1.0, 0.4, "gaussian"),
        (0.0, 2.0, 0.4, "gaussian"),
        (0.0, 4.0, 0.4, "gaussian"),
        (0.7, 3.0, 0.4, "gaussian"),
        (0.7, 10.0, 0.0, "gaussian"),
        (0.0, 2.0, 0.4, "skewed"),
        (0.0, 2.0, 0.4, "heavy"),
    ):
        reference, healthy, direction = (28, 15, "both") if small else (60, 40, "up")
        rng, found = np.random.default_rng(3), []
        for _ in range(200):
            values = days(rng, reference + 260, correlation, kind)
            values[reference:] += small
            values[reference + healthy :] += size
            spec = learn_alarm(values[:reference], direction=direction)
            state = run(spec, values[reference:])
            if state.alarm_day is not None and state.alarm_day > healthy:
                onset, true = alarm_onset(spec, state), healthy + 1
                holds = onset.earliest <= true <= onset.latest
                found.append((onset.day - true, holds, onset.latest - onset.earliest + 1))
        errors, holds, widths = np.array(found).T
        lines.append(
            f"{small} before, then {size} sd, correlation {correlation}, {kind}: median error "
            f"{np.median(np.abs(errors)):.0f}, early by more than 5 days {np.mean(errors < -5):.2f}, held "
            f"{holds.mean():.2f}, days {np.median(widths):.0f}"
        )
        assert holds.mean() >= 0.85
    with capsys.disabled():
        print("", *lines, sep="\n")


@pytest.mark.soak
def test_days_far_beyond_the_baseline_are_rare_in_healthy_streams(capsys):
    """Print the table of D0232. Days of the alarm's own streams are counted, with a new state after each alarm."""
    lines = []
    for kind, reference in itertools.product(("gaussian", "skewed", "heavy"), (14, 28, 84)):
        rng, beyond = np.random.default_rng(5), []
        for _ in range(300):
            values, state = days(rng, reference + 100, 0.4, kind), AlarmState()
            spec = learn_alarm(values[:reference], run_length=3000)
            for value in values[reference:]:
                state = update_alarm(spec, state, float(value))
                beyond.append(state.newest[-1] - max(0.0, spec.sides[0].baseline))
                state = AlarmState() if state.alarm_day else state
        four, eight = (100 * float(np.mean(np.array(beyond) >= least)) for least in (4.0, 8.0))
        lines.append(f"{kind}, {reference} days: {four:.2f} ({eight:.2f}) days in 100")
        assert four <= 1.7
        assert eight <= 0.2
    with capsys.disabled():
        print("", *lines, sep="\n")


@pytest.mark.soak
def test_measure_run_lengths_and_delays(capsys):
    """Print the table of D0003: `pytest -m soak -s tests/stats/test_edetector.py`."""
    lines = []
    for reference in (14, 28, 60):
        for correlation, kind in (
            (0.0, "gaussian"),
            (0.4, "gaussian"),
            (0.4, "skewed"),
            (0.4, "heavy"),
            (0.6, "gaussian"),
        ):
            found = first_alarms(500, 300, reference, correlation, kind, seed=1)
            shares = [float(np.mean(found <= h)) for h in (50, 100, 300)]
            lines.append(
                f"healthy, {reference} days, correlation {correlation}, {kind}: within 50/100/300 days {shares}"
            )
            if correlation <= 0.4:
                assert all(
                    s <= p + 2 * math.sqrt(p * (1 - p) / 500) for s, p in zip(shares, (0.05, 0.1, 0.3), strict=True)
                )
        for correlation, shift in itertools.product((0.0, 0.4), (2.0, 1.0, 0.5)):
            found = first_alarms(200, 250, reference, correlation, "gaussian", shift=shift, healthy=30, seed=2)
            delays = np.sort(found[found > 30] - 30)
            middle, late = delays[len(delays) // 2], delays[len(delays) * 4 // 5]
            lines.append(
                f"shift {shift} sd, {reference} days, correlation {correlation}: half in {middle}, 80 % in {late}"
            )
        lengths = run_lengths(300, 1500, reference, 100, seed=3)
        assert lengths.mean() >= 100
        lines.append(
            f"stated 100 days, {reference} days, correlation 0.4, skewed: mean {lengths.mean():.0f} (cut at 1500)"
        )
        for low, correlation in itertools.product((LOW, -0.75), (0.0, 0.4)):  # slices; see the notes of D0003
            found = first_alarms(300, 300, reference, correlation, "heavy", low=low, seed=1)
            shares = [float(np.mean(found <= h)) for h in (50, 100, 300)]
            lines.append(f"slices, healthy, {reference} days, correlation {correlation}, heavy, low {low}: {shares}")
            for shift in (1.0, 2.0, 4.0):
                slices = {"low": low, "stated": 72_000, "shift": shift, "healthy": 20, "seed": 2}
                found = first_alarms(100, 130, reference, correlation, "gaussian", **slices)
                half = np.median(found[found > 20] - 20)
                lines.append(f"slices, shift {shift} sd, {reference} days, {correlation}, low {low}: half in {half}")
        both = first_alarms(400, 300, reference, 0.4, "skewed", direction="both", seed=1)
        lines.append(f"both directions, {reference} days: {[float(np.mean(both <= h)) for h in (50, 100, 300)]}")
    with capsys.disabled():
        print("", *lines, sep="\n")
