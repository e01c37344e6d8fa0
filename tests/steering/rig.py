"""A deployment whose candidates are made up: what a controller is tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from trimtab.core.clock import VirtualClock
from trimtab.core.errors import Conflict, Misuse
from trimtab.core.expressions.nodes import col
from trimtab.core.records import DayQuality
from trimtab.core.time import DAY_US
from trimtab.events import Time, source
from trimtab.features.definitions import label, request
from trimtab.monitoring.quality.quality import QualityMonitor
from trimtab.registry import AliasMove
from trimtab.registry.aliases import Together
from trimtab.steering.candidates.ports import Stored
from trimtab.steering.definitions import Deployment
from trimtab.steering.ledger import Ledger
from trimtab.steering.loop.controller import Controller
from trimtab.steering.loop_state import Changes, PairedDay, Repair
from trimtab.store import Append, Catalog, Entry, Put, Record, Remove
from trimtab.testing.builders import a_gate_record
from trimtab.training import model

clicks = source("clicks", time="at", key="id", columns={"id": str, "clicked": bool})
visit = request("visit", key="id", time="at", columns={"id": str, "at": Time, "x": float})
target = model(
    "click",
    request=visit,
    features=[{"x": col("x")}],
    label=label(clicks, key="id", value="clicked", wait="2d"),
    estimator=dict,
    metric="log_loss",
)


def day(number: int, version: str, loss: float) -> DayQuality:
    return DayQuality(
        model="click",
        version=version,
        day_us=number * DAY_US,
        predictions=1_000,
        labelled=1_000,
        missing=0,
        score_sum=300.0,
        label_sum=300.0 + 10 * (number % 3 - 1),
        loss_sum=1_000 * loss,
        capped_loss_sum=1_000 * (loss + 0.01 * (number % 4 - 1.5)),
    )


def shadow_day(number: int, difference: float, wobble: float = 0.004, rows: int = 1_000) -> PairedDay:
    found = difference + wobble * (number % 3 - 1)
    return PairedDay(day_us=number * DAY_US, rows=rows, difference=found, champion=0.4)


class Crash(BaseException):
    """The process ends here."""


class Fragile:
    """A catalogue of a process that ends at its n-th write: before it, or right after it."""

    def __init__(self, catalog: Catalog, last: int, *, after: bool) -> None:
        self._catalog = catalog
        self._left = last
        self._after = after

    def write(self, changes: Sequence[Put | Remove | Append]) -> None:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Crash
        self._catalog.write(changes)
        if self._left == 0:
            raise Crash

    def get(self, kind: str, key: str) -> Record | None:
        return self._catalog.get(kind, key)

    def find(self, kind: str, prefix: str = "") -> list[Record]:
        return self._catalog.find(kind, prefix)

    def journal(self, name: str, *, after: int = 0, limit: int = 10_000) -> list[Entry]:
        return self._catalog.journal(name, after=after, limit=limit)

    def acquire(self, lease: str, holder: str, ttl_s: float) -> bool:
        return self._catalog.acquire(lease, holder, ttl_s)

    def release(self, lease: str, holder: str) -> None:
        self._catalog.release(lease, holder)

    def close(self) -> None:
        self._catalog.close()


class Bench:
    """Candidates that pass, fail or cannot be made by a list of verdicts; versions are called v1, v2, ..."""

    def __init__(self, verdicts: list[bool | None]) -> None:
        self.verdicts = verdicts
        self.made = 0
        self.looks = 0
        self.in_service: str | None = None
        self.cuts_us: dict[str, int] = {}  # of each version
        self.replaced: str | None = None
        self.lack: str | None = None
        self.overtaken_by: str | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        self.steps: Callable[[str], None] = lambda name: None
        self.folds = 1
        self.checks: dict[str, bool] = {}  # of each gate; empty: those that a promotion needs
        self.difference, self.bound = -0.1, -0.05  # of the loss of .5, as a gate finds them
        self.shadow_difference = -0.1  # of the loss of .4, each day of a shadow
        self.wobble = 0.004  # how much its days differ
        self.shares: list[float] = []
        self.breach: str | None = None
        self.unanswered: Exception | None = None
        self.other_canary = False
        self.experiment: str | None = None  # what is said of an experiment that splits the requests
        self.armed: str | None = None  # the canary, if it is not the newest candidate
        self.catalog: Catalog | None = None
        self.labels = 1_000  # of a day
        self.seen = 1_000  # requests that a canary answered
        self.changes = Changes()  # what the newest repair was told

    def champion(self) -> str | None:
        return self.in_service

    def champion_cut(self) -> int:
        return 0 if self.in_service is None else self.cuts_us.get(self.in_service, 0)

    def blocked(self, cut_us: int, changes: Changes) -> str | None:
        self.looks += 1
        return self.lack

    def repair(self, cut_us: int, go_on: Callable[[], None], changes: Changes) -> Repair:
        passed = self.verdicts.pop(0) if self.verdicts else False
        if passed is None:
            raise Misuse("model 'click': all 10 labels are 0.")
        self.changes = changes
        self.meanwhile()
        go_on()
        self.made += 1
        name = f"v{self.made}"
        gate = a_gate_record(
            id=f"g{self.made}", model="click", candidate=name, champion=self.in_service, judged_at_us=cut_us,
            window_end_us=cut_us, rows=10, champion_metric=0.5, difference=self.difference,
            bound=self.bound, passed=passed, reason="r",
            folds=1 if changes.onset is None else self.folds, **({"checks": self.checks} if self.checks else {}),
        )  # fmt: skip
        self.cuts_us[name] = cut_us
        end = cut_us // DAY_US
        reference = tuple(day(n, name, 0.3) for n in range(end - 14, end))
        return Repair(
            candidate=name, gate=gate, successor=name if passed else None, reason="r", reference=reference,
            cut_us=cut_us, rows=10, data_hash="d",
            unseen_from_us=cut_us - target.label.wait_us,
            gate_days=tuple(shadow_day(n, -0.1) for n in range(end - 14, end)),
        )  # fmt: skip

    def judge_stored(self, stored: Stored, cut_us: int, *, keep: bool = True) -> Repair:
        repair = self.repair(cut_us, lambda: None, Changes())
        successor = None if repair.successor is None else stored.version
        self.cuts_us[stored.version] = 7 * DAY_US
        return msgspec.structs.replace(repair, successor=successor)

    def shadow_days(self, repair: Repair, since_us: int, cut_us: int) -> tuple[tuple[PairedDay, ...], int]:
        if self.unanswered is not None:
            raise self.unanswered
        until_us = target.label.closed_until(cut_us)
        days = range(-(-since_us // DAY_US), until_us // DAY_US)
        return tuple(shadow_day(number, self.shadow_difference, self.wobble, self.labels) for number in days), until_us

    def share(self, repair: Repair, share: float) -> list[Put]:
        if self.other_canary and share:
            raise Conflict("another version answers 10% of the requests as canary.")
        self.shares.append(share)
        return [Put("share", "click", msgspec.json.encode(share))]

    def taken(self) -> str | None:
        return self.experiment

    def refused(self, version: str, why: str, at_us: int) -> list[Put]:
        return [Put("refused", version, msgspec.json.encode(why))]

    def roll_back(self, version: str, why: str, together: Together) -> None:
        assert version == self.in_service
        self.in_service, self.replaced = self.replaced, self.in_service
        assert self.in_service is not None
        row = AliasMove(model="click", alias="champion", sequence=1, version=self.in_service, previous=self.replaced,
            at_us=0, act="roll_back", why=why, gate=None, actor="policy")  # fmt: skip
        together(row, [])

    def recipe(self, repair: Repair) -> str | None:
        return None

    def answered(self, repair: Repair) -> tuple[str | None, float]:
        assert self.catalog is not None
        record = self.catalog.get("share", "click")
        return self.armed, 0.0 if record is None else float(msgspec.json.decode(record.body))

    def __call__(self, version: str, against: str, *, since_us: int) -> str | None:
        return self.breach

    def requests(self, version: str, *, since_us: int) -> int | None:
        return self.seen

    def promote(self, repair: Repair, why: str, actor: str | None = None) -> str | None:
        self.steps("before the alias moves")
        if self.overtaken_by is not None:
            raise Conflict("the champion is now v9. Judge it again.")
        if self.in_service != repair.successor:
            self.replaced, self.in_service = self.in_service, repair.successor
        self.steps("after the alias moved")
        return self.replaced


class Rig:
    def __init__(self, catalog: Catalog, bench: Bench, rules: Deployment) -> None:
        self.clock = VirtualClock(100 * DAY_US)
        self.catalog = catalog
        self.bench = bench
        self.rules = rules
        self.open()

    def open(self, catalog: Catalog | None = None) -> None:
        """As after a restart: everything is read again from the catalogue."""
        catalog = self.bench.catalog = catalog or self.catalog
        self.monitor = QualityMonitor(catalog, "click", run_length_days=200)
        self.ledger = Ledger(catalog)
        self.controller = Controller(
            self.rules, monitor=self.monitor, candidates=self.bench, ledger=self.ledger, catalog=catalog,
            clock=self.clock, exposure=self.bench, guard=self.bench,
        )  # fmt: skip

    def days(self, count: int, loss: float) -> list[str]:
        """Let days pass: close one, look, tick; the acts taken."""
        acts = []
        for _ in range(count):
            number = self.clock.now_us() // DAY_US
            self.clock.advance_to((number + 1) * DAY_US)
            assert self.bench.in_service is not None
            self.monitor.observe([day(number, self.bench.in_service, loss)], now_us=self.clock.now_us())
            acts += [d.act for d in self.controller.tick()]
        return acts
