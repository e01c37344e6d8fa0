"""Which flights from New York will land half an hour late or more?"""

import trimtab as tt

weather = tt.source("weather", time="observed_at", delay="1h", columns={
    "origin": str, "temp": float, "wind_speed": float, "visib": float, "precip": float, "pressure": float})
landings = tt.source("landings", time="landed_at", key="flight_id", columns={"flight_id": str, "carrier": str,
    "origin": str, "dest": str, "tailnum": str, "arr_delay": float})
planes = tt.source("planes", time="registered_at", key="tailnum", columns={"tailnum": str, "built": int, "seats": int})
flight = tt.request("flight", key="flight_id", time="scheduled_at", columns={"flight_id": str, "carrier": str,
    "origin": str, "dest": str, "tailnum": str, "scheduled_at": tt.Time, "distance": float})

late, delay = tt.col("arr_delay") >= 30, tt.col("arr_delay").clip(-30, 120)
sky = tt.view("sky", source=weather, by="origin", features={
    name: tt.latest(name, max_age="3h") for name in ("temp", "wind_speed", "visib", "precip", "pressure")})
plane = tt.view("plane", source=planes, by="tailnum", features={
    "built": tt.latest("built"), "seats": tt.latest("seats")})
leg = tt.view("leg", source=landings, by="tailnum", features={"last_delay": tt.latest(delay, max_age="1d")})
rolling = [tt.view(by, source=landings, by=by, features={
    "delay_3h": tt.mean(delay, over="3h"), "delay_1d": tt.mean(delay, over="1d"), "late_7d": tt.mean(late, over="7d"),
    "landings_1d": tt.count(over="1d"), "worst_3h": tt.max("arr_delay", over="3h"),
}) for by in ("origin", "carrier", "dest")]
calendar = {"hour": tt.col("scheduled_at").hour(tz="America/New_York"), "log_distance": tt.col("distance").log1p(),
    "weekday": tt.col("scheduled_at").weekday(), **{by: tt.col(by).category() for by in ("carrier", "origin", "dest")}}
def trees():
    from lightgbm import LGBMClassifier
    return LGBMClassifier(n_estimators=100, learning_rate=0.05, min_child_samples=100, colsample_bytree=0.5, max_bin=63)
def linear():
    from sklearn.linear_model import SGDClassifier
    return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.0003)

truth = tt.label(landings, key="flight_id", value=late, wait="48h")
question = {"request": flight, "label": truth, "metric": "log_loss"}
model = tt.model("late_flight", features=[calendar, plane, sky, leg, *rolling], estimator=trees, **question)
plain = tt.model("late_flight_plain", features=[calendar, plane, sky], estimator=trees, **question)
stream = tt.model("late_flight_online", features=[calendar, plane, sky, leg, *rolling], estimator=linear, **question)

tt.deployment(model, retrain=tt.on_quality_drop() | tt.every("30d"), gate=tt.beats_champion(margin=0.002))
tt.deployment(stream, learn="online", retrain=tt.on_quality_drop())
