
import trimtab as tt

flight = tt.request("flight", key="id", time="at", columns={"id": str, "at": tt.Time, "km": float})
landings = tt.source("landings", time="at", key="id", columns={"id": str, "at": tt.Time, "late": bool})

def estimator():
    from sklearn.linear_model import LogisticRegression
    return LogisticRegression()

late_flight = tt.model("late_flight", request=flight, features=[{"far": tt.col("km")}], metric="log_loss",
    label=tt.label(landings, key="id", value="late", wait="1h"), estimator=estimator)
tt.deployment(late_flight, owner="team flights")
