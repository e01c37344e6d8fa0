"""Draw a random sample from the prediction log that includes rare versions and arms (champion, canary, shadow)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from trimtab.core.records import Prediction
from trimtab.serving.log.prediction_log import PredictionLog
from trimtab.serving.log.prediction_record import ERASED, decode
from trimtab.store.log_places import begin_of

# to find rare versions and arms, this many predictions are read from a long log for each one in the sample
_SEVERAL = 4
_FEW = 20_000  # a log with at most this many predictions is read completely


def draw(
    predictions: PredictionLog,
    wanted: Callable[[Prediction], bool],
    *,
    count: int | None,
    after: Mapping[str, int],
    seed: int,
) -> list[Prediction]:
    """Return a sample of the predictions after the positions `after`, in order of time.

    The sample has at most `count` (None: all) of the predictions for which `wanted` is true. A long log is divided into
    `_SEVERAL * count` equal parts, and one prediction of each is read. A quarter of the sample is spread evenly over
    the combinations of model, version, arm and mode; the rest is drawn at random.
    """
    log = predictions.log
    ends = {name: last for name, last in log.positions().items() if last > after.get(name, 0)}
    begins = {name: max(after.get(name, 0), begin_of(log, name, last)) for name, last in ends.items()}
    total = sum(last - begins[name] for name, last in ends.items())
    rng = random.Random(seed)
    if count is None or total <= max(_FEW, _SEVERAL * count):
        found = [p for p in _all(predictions, ends, begins) if wanted(p)]
    else:
        found = [p for p in _spread(predictions, ends, begins, _SEVERAL * count, rng) if wanted(p)]
    chosen = found if count is None or len(found) <= count else _chosen(found, count, rng)
    return sorted(chosen, key=lambda p: (p.made_at_us, p.id))


def _all(predictions: PredictionLog, ends: Mapping[str, int], begins: Mapping[str, int]) -> Iterator[Prediction]:
    for name, last in sorted(ends.items()):
        for block in predictions.between(name, begins[name], last):
            yield from block


def _spread(
    predictions: PredictionLog, ends: Mapping[str, int], begins: Mapping[str, int], looks: int, rng: random.Random
) -> Iterator[Prediction]:
    total = sum(last - begins[name] for name, last in ends.items())
    for name, last in sorted(ends.items()):
        begin = begins[name]
        share = max(1, round(looks * (last - begin) / total)) if last > begin else 0
        places = sorted({begin + int((n + rng.random()) * (last - begin) / share) for n in range(share)})
        for place in places:
            for record in predictions.log.read(name, place, limit=1):
                if not record.payload.startswith(ERASED):
                    yield decode(record.payload, name, record.position)


def _chosen(found: Sequence[Prediction], count: int, rng: random.Random) -> list[Prediction]:
    groups: dict[tuple[str, str, str, str], list[int]] = {}
    order = list(range(len(found)))
    rng.shuffle(order)
    for place in order:
        p = found[place]
        groups.setdefault((p.model, p.version, p.arm, p.mode), []).append(place)
    each = max(1, count // (4 * len(groups)))
    kept = [place for _, places in sorted(groups.items()) for place in places[:each]][:count]
    there = set(kept)
    kept += [place for place in order if place not in there][: count - len(kept)]
    return [found[place] for place in kept]
