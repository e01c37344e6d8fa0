"""A generated shop whose truth is known, and two field experiments whose rows are public."""

import trimtab as tt

# The generated shop. Each visit is a customer; green raises the share of those who buy.
visits = tt.source("visits", time="at", columns={"customer": str, "country": str})
orders = tt.source("orders", time="at", columns={"customer": str, "amount": float})
pages = tt.source("pages", time="at", columns={"customer": str, "seconds": float})
bought = {"source": orders, "by": "customer", "within": "1d"}

tt.experiment(
    "checkout",
    unit="customer",
    variants={"blue": "#00f", "green": "#0f0"},
    attributes={"country": str},
    slices=["country"],
    metrics=[
        tt.metric("orders", value=tt.count(), kind="proportion", role="primary", **bought),
        tt.metric("revenue", value=tt.sum("amount"), cap=200.0, **bought),
        tt.metric("page_time", source=pages, by="customer", value=tt.mean("seconds"), within="1d", better="lower",
                  role="guardrail", margin=0.05),
    ],
)

# Two field experiments that others have run. Their exposures come from the data, with the variant that each person was
# assigned; see run.py.
replies = tt.source("replies", time="at", columns={"person": int})
reply = tt.metric("replied", source=replies, by="person", value=tt.count(), kind="proportion", within="1d",
                  role="primary")

# An e-mail to legislators, written from their own district or from another one (Broockman 2013).
tt.experiment("letter", unit="person", variants={"own_district": 0, "another_district": 1}, metrics=[reply],
              attributes={"chamber": str, "party": str}, slices=["chamber", "party"])

# A voucher for those who come back for their test result (Thornton 2008). The data do not say which share was meant to
# get one, so the declared weights are those that were found.
tt.experiment("voucher", unit="person", variants={"none": 0, "voucher": 1}, metrics=[reply],
              weights={"none": 0.22, "voucher": 0.78}, attributes={"distance": str, "age": str},
              slices=["distance", "age"])
