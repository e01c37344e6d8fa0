"""The definitions of the stored state: an exact copy of the `project.py` in `state.tar.xz`.

The models `sale`, `amount` and `channel` are trees: their scores are shares and means of labels, so that no bit of them
depends on a processor. `learner` learns online; its scores may differ in the last digits.
"""

import trimtab as tt

readings = tt.source("readings", time="read_at", columns={"site": str, "level": float, "state": str})
sales = tt.source(
    "sales",
    time="closed_at",
    key="visit_id",
    columns={"visit_id": str, "site": str, "bought": bool, "amount": float, "channel": str},
)
visit = tt.request(
    "visit", key="visit_id", time="at", columns={"visit_id": str, "site": str, "at": tt.Time, "x": float, "pages": int}
)
site = tt.view(
    "site",
    source=readings,
    by="site",
    boundary="inclusive",
    features={
        "level": tt.latest("level", max_age="9h"),
        "readings": tt.count(),
        "readings_1d": tt.count(over="1d", where=tt.col("level") > 0),
        "level_sum": tt.sum("level", over="2d"),
        "level_mean": tt.mean("level", over="1d", until="6h"),
        "level_min": tt.min("level", over="1d"),
        "level_max": tt.max("level", over="1d"),
        "level_var": tt.var("level", over="3d"),
        "level_std": tt.std("level", over="3d"),
        "level_first": tt.first("level", over="1d"),
        "level_last": tt.last("level"),
        "level_newest": tt.last_n("level", 2, over="1d"),
        "levels": tt.count_distinct("level", over="3d", k=8),
        "usual": tt.top_k("level", 2, over="3d"),
        "fading_sum": tt.decayed_sum("level", half_life="6h"),
        "fading_mean": tt.decayed_mean("level", half_life="12h", over="2d"),
    },
)
shop = tt.view(
    "shop",
    source=sales,
    by="site",
    features={"sales_7d": tt.count(over="7d"), "amount": tt.latest("amount"), "channel": tt.latest("channel")},
)


@tt.transform
def excess(level, usual):
    return level - usual


def chance():
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_depth=2, min_samples_leaf=30, random_state=0)


def number():
    from sklearn.tree import DecisionTreeRegressor

    return DecisionTreeRegressor(max_depth=2, min_samples_leaf=30, random_state=0)


def stream():
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05)


features = [
    {
        "x": tt.col("x"),
        "pages": tt.col("pages").clip(0, 20),
        "hour": tt.col("at").hour(tz="Europe/Berlin"),
        "where": tt.col("site").category(),
        "excess": excess(site["level"], site["level_mean"]),
    },
    site.join(select=["level", "readings_1d", "level_std", "levels", "usual_1", "fading_mean"]),
    shop.join(select=["sales_7d", "amount"]),
]
few = [{"x": tt.col("x"), "pages": tt.col("pages")}, site.join(select=["level"])]
bought = tt.label(sales, key="visit_id", value="bought", wait="1d")
spent = tt.label(sales, key="visit_id", value="amount", wait="1d")
by = tt.label(sales, key="visit_id", value="channel", wait="1d", classes=["web", "phone", "shop"])

sale = tt.model(
    "sale", request=visit, features=features, label=bought, estimator=chance, metric="log_loss", slices=["site"]
)
amount = tt.model("amount", request=visit, features=few, label=spent, estimator=number, metric="squared_error")
channel = tt.model("channel", request=visit, features=few, label=by, estimator=chance, metric="multi_log_loss")
learner = tt.model("learner", request=visit, features=few, label=bought, estimator=stream, metric="log_loss")

lenient = tt.beats_champion(margin=-0.5, calibration=0.5, baselines=[], refit_distance=0.9)
tt.deployment(sale, gate=lenient, retrain=tt.on_quality_drop() | tt.every("90d"))
tt.deployment(amount, gate=tt.beats_champion(margin=-900.0, calibration=0.9, baselines=[], refit_distance=0.9))
tt.deployment(channel, gate=tt.beats_champion(margin=-0.9, calibration=0.9, baselines=[], refit_distance=0.9))
tt.deployment(learner, gate=lenient, learn="online")
