"""A generated shop whose world turns on a known day: what the loop notices, proves, repairs, and keeps out."""

import trimtab as tt

readings = tt.source("readings", time="read_at", columns={"site": str, "read_at": tt.Time, "level": float})
sales = tt.source(
    "sales", time="closed_at", key="visit_id", columns={"visit_id": str, "closed_at": tt.Time, "bought": bool}
)
visit = tt.request(
    "visit",
    key="visit_id",
    time="at",
    columns={"visit_id": str, "at": tt.Time, "site": str, "price": float, "distance": float, "age": float},
)
site = tt.view("site", source=readings, by="site", features={"level": tt.latest("level", max_age="6h")})


def logistic():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10)


model = tt.model(
    "buyer",
    request=visit,
    features=[site, {name: tt.col(name) for name in ("price", "distance", "age")}],
    label=tt.label(sales, key="visit_id", value="bought", wait="48h"),
    estimator=logistic,
    metric="log_loss",
)
tt.deployment(
    model,
    retrain=tt.on_quality_drop() | tt.every("30d"),
    gate=tt.beats_champion(margin=-0.002, calibration=0.05),
    rollout=tt.rollout(shadow="1d", canary=[0.2]),
)
