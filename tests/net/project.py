"""Every kind of definition once: what the snapshots of hashes and of the OpenAPI document are made from."""

import trimtab as tt

route = tt.entity("route", {"origin": str, "dest": str}, description="a pair of airports", tags=["public"])
weather = tt.source(
    "weather",
    time="observed_at",
    delay="1h",
    columns={"origin": str, "temp": float, "visib": float},
    time_format={"observed_at": "%d.%m.%Y %H:%M"},
    owner="team sky",
)
landings = tt.source(
    "landings",
    time="landed_at",
    key="flight_id",
    future_tolerance="10min",
    columns={"flight_id": str, "carrier": str, "origin": str, "dest": str, "gate": int, "delay": float, "cause": str},
)
planes = tt.source("planes", time="registered_at", key="tail", columns={"tail": str, "model": str, "seats": int})
shown = tt.source("clicks", time="clicked_at", key="row_id", columns={"row_id": str, "clicked": bool})
flight = tt.request(
    "flight",
    key="flight_id",
    time="scheduled_at",
    lead="2h",
    columns={
        "flight_id": str,
        "carrier": str,
        "origin": str,
        "dest": str,
        "tail": str,
        "scheduled_at": tt.Time,
        "distance": float,
        "international": bool,
    },
)
offer = tt.request(
    "offer",
    key="row_id",
    time="asked_at",
    columns={"row_id": str, "page": str, "asked_at": tt.Time, "price": float, "place": int},
)

late = tt.col("delay") >= 30
every_aggregate = tt.view(
    "carrier",
    source=landings,
    by="carrier",
    description="how a carrier's flights landed",
    tags=["public"],
    features={
        "latest_delay": tt.latest("delay", max_age="3h"),
        "landings": tt.count(),
        "landings_1d": tt.count(over="1d"),
        "known_1d": tt.count("delay", over="1d", where=tt.col("gate") > 0),
        "delay_sum": tt.sum("delay", over="7d", hop="1h"),
        "delay_mean": tt.mean(tt.col("delay").clip(-30, 120), over="3h"),
        "late_before": tt.mean(late, over="7d", until="1d"),
        "least": tt.min("delay", over="1d"),
        "greatest": tt.max("delay", over="1d"),
        "variance": tt.var("delay", over="7d"),
        "deviation": tt.std("delay", over="7d"),
        "first_gate": tt.first("gate", over="1d"),
        "last_delay": tt.last("delay"),
        "newest": tt.last_n("delay", 3, over="1d"),
        "gates": tt.count_distinct("gate", over="7d", k=64),
        "usual_gate": tt.top_k("gate", 2, over="7d"),
        "fading_sum": tt.decayed_sum("delay", half_life="1d"),
        "fading_mean": tt.decayed_mean("delay", half_life="12h", over="3d"),
    },
)
sky = tt.view("sky", source=weather, by="origin", features={"temp": tt.latest("temp", max_age="3h")})
legs = tt.view(
    "legs", source=landings, by=route, boundary="inclusive", features={"delay_1d": tt.mean("delay", over="1d")}
)
plane = tt.view("plane", source=planes, by="tail", features={"model": tt.latest("model"), "seats": tt.latest("seats")})
fleet = tt.view("fleet", source=planes, by="model", features={"planes": tt.count(), "seats": tt.mean("seats")})

scheduled, distance = tt.col("scheduled_at"), tt.col("distance")


@tt.transform
def share(part, whole):
    return part / whole if whole else None


@tt.transform(returns=bool, nulls="pass")
def is_given(text):
    return text is not None


every_expression = {
    "hour": scheduled.hour(tz="America/New_York"),
    "minute": scheduled.minute(),
    "weekday": scheduled.weekday(),
    "day": scheduled.day_of_year(),
    "month": scheduled.month(tz="Europe/Berlin"),
    "log_distance": distance.log1p() + distance.log() - distance.exp() * distance.sqrt() / 2 + distance**2,
    "rest": (distance // 7) % 3 - abs(-distance),
    "far": (distance > 1_000) & ~(tt.col("origin") == "JFK") | tt.col("international"),
    "known": distance.is_null() | distance.fill_null(0).isin([0, 1]),
    "near": tt.when(distance <= 200, 1, tt.lit(0)),
    "band": distance.bucket([100, 500, 2_000]),
    "to": tt.col("dest").hash_bucket(64),
    "from": tt.col("origin").category(),
    "trend": every_aggregate["delay_mean"] - every_aggregate["fading_mean"],
    "busy": share(every_aggregate["landings_1d"], every_aggregate["landings"]),
    "has_tail": is_given(tt.col("tail")),
}


def estimator():
    """No library is named here, so that no address depends on the version of one."""
    raise NotImplementedError


def usual(row):
    return 0.3 if row["international"] else 0.2


def searched(depth=3, rate=0.1, kind="small"):
    raise NotImplementedError


truth = tt.label(landings, key="flight_id", value=late, wait="48h")
minutes = tt.label(landings, key="flight_id", value="delay", wait="48h")
cause = tt.label(landings, key="flight_id", value="cause", wait="2d", classes=["none", "late", "cancelled"])
clicked = tt.label(shown, key="row_id", value="clicked", wait="1h")
few = [{"distance": distance}, sky]

model = tt.model(
    "late_flight",
    request=flight,
    features=[
        every_expression,
        every_aggregate,
        sky,
        sky.join("arrival", by="dest", select=["temp"]),
        legs,
        plane.join(select=["seats"]),
        fleet.join(by=plane["model"]),
    ],
    label=truth,
    estimator=estimator,
    metric="log_loss",
    calibration="platt",
    slices=["carrier", "near"],
    costs={"false_positive": 1, "false_negative": 5},
    weights="balanced",
    sample=tt.sample(negatives=0.5, seed=7),
    group="carrier",
    allow_leakage=["hour"],
    search=None,
)


def judged(name, metric, label):
    return tt.model(name, request=flight, features=few, label=label, estimator=estimator, metric=metric)


by_brier = judged("by_brier", "brier", truth)
by_squared_error = judged("by_squared_error", "squared_error", minutes)
by_absolute_error = judged("by_absolute_error", "absolute_error", minutes)
by_poisson = judged("by_poisson", "poisson_deviance", minutes)
by_pinball = judged("by_pinball", tt.pinball(0.9), minutes)
by_multi_log_loss = judged("by_multi_log_loss", "multi_log_loss", cause)
by_multi_brier = judged("by_multi_brier", "multi_brier", cause)
by_error_rate = judged("by_error_rate", "error_rate", cause)
ranked = tt.model(
    "ranked",
    request=offer,
    features=[{"price": tt.col("price"), "place": tt.col("place")}],
    label=clicked,
    estimator=estimator,
    metric=tt.ndcg_loss(5),
    group="page",
)
tuned = tt.model(
    "tuned",
    request=flight,
    features=few,
    label=truth,
    estimator=searched,
    metric="log_loss",
    rows="logged",
    trust="pickle",
    weights="distance",
    search=tt.search(
        {
            "depth": tt.integer(2, 8, log=True),
            "rate": tt.number(0.01, 1, log=True),
            "kind": tt.choice("small", "large"),
        },
        trials=7,
        time="10m",
        folds=2,
    ),
)

tt.deployment(
    model,
    retrain=tt.on_quality_drop() | tt.every("30d") & tt.on_new_labels(5_000) | tt.on_slice_drop(),
    gate=tt.beats_champion(
        margin=0.002,
        level=0.95,
        window="10d",
        calibration=0.05,
        slices={"far": distance > 1_000},
        slice_margin=0.01,
        calibration_error=0.1,
        latency="5ms",
        slices_may_abstain=True,
        baselines=["linear"],
        refit_distance=0.2,
        refit_share=0.4,
    ),
    cooldown="3d",
    settle="5d",
    approval="2d",
    rollout=tt.rollout(
        shadow="1d",
        within="7d",
        margin=0.03,
        canary=[0.05, 0.25],
        step="2h",
        bake="4h",
        guardrails=tt.guardrails(latency=2.0, p99="50ms", failures=0.02, least=20),
    ),
    fits_per_day=2,
    fits_per_week=5,
    degrade=tt.degrade(after="50ms", null_features=True, last_answer="1h", rule=usual),
    cache=tt.cache("8MB", ttl="1h"),
    owner="team flights",
)
tt.deployment(by_brier, learn="online", retrain=tt.on_quality_drop(run_length="500d"))
tt.deployment(by_squared_error)
tt.deployment(by_multi_log_loss, gate=tt.beats_champion(margin=-0.5))
tt.deployment(ranked, rollout=tt.rollout(canary=[0.5]))
tt.deployment(tuned)
