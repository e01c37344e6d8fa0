"""Join labels and events of Parquet files by one product, in a process of its own.

    python _peer_joins.py feast|polars|ours|by_hand < REQUEST

The last line of output has the seconds, the rows, and the peak memory of the process.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

COLUMNS = [f"x{i}" for i in range(10)]


def feast(asked: dict[str, Any]) -> tuple[float, int]:
    """Feast with its offline store on DuckDB."""
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64
    from feast.value_type import ValueType

    folder = Path(asked["folder"]) / "feast"
    folder.mkdir(exist_ok=True)
    config = RepoConfig(
        project="doors",
        registry=str(folder / "registry.db"),
        provider="local",
        offline_store={"type": "duckdb"},
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    made: list[Any] = []
    for name, file in asked["events"].items():
        kind = ValueType.STRING if name == "shop" else ValueType.INT64
        entity = Entity(name=name, join_keys=[name], value_type=kind)
        source = FileSource(name=f"{name}_events", path=file, timestamp_field="moment")
        schema = [Field(name=column, dtype=Float64) for column in COLUMNS]
        made += [
            entity,
            FeatureView(name=f"of_{name}", entities=[entity], ttl=timedelta(0), schema=schema, source=source),
        ]
    store.apply(made)
    wanted = [f"of_{name}:{column}" for name in asked["events"] for column in COLUMNS]
    start = time.perf_counter()
    labels = pd.read_parquet(asked["labels"]).rename(columns={"moment": "event_timestamp"})
    found = store.get_historical_features(entity_df=labels, features=wanted, full_feature_names=True).to_arrow()
    return time.perf_counter() - start, found.num_rows


def polars(asked: dict[str, Any]) -> tuple[float, int]:
    """Polars' `join_asof`."""
    import polars as pl

    start = time.perf_counter()
    found = pl.scan_parquet(asked["labels"]).with_row_index("n").sort("moment")
    for name, file in asked["events"].items():
        events = pl.scan_parquet(file).sort("moment").rename({column: f"of_{name}.{column}" for column in COLUMNS})
        found = found.join_asof(events, on="moment", by=name, strategy="backward", allow_exact_matches=False)
    rows = found.sort("n").collect().height
    return time.perf_counter() - start, rows


def ours(asked: dict[str, Any]) -> tuple[float, int]:
    """`Project.join`."""
    import trimtab as tt

    with tt.open(asked["folder"]) as project:
        start = time.perf_counter()
        events = {f"{name}_events": file for name, file in asked["events"].items()}
        found = project.join(asked["labels"], [f"of_{name}" for name in asked["events"]], at="moment", events=events)
        return time.perf_counter() - start, len(found)


def by_hand(asked: dict[str, Any]) -> tuple[float, int]:
    """DuckDB, by hand."""
    import _labels

    start = time.perf_counter()
    found = _labels.by_hand(Path(asked["labels"]), {name: Path(file) for name, file in asked["events"].items()})
    return time.perf_counter() - start, len(found["of_user.x0"])


if __name__ == "__main__":
    seconds, rows = {"feast": feast, "polars": polars, "ours": ours, "by_hand": by_hand}[sys.argv[1]](
        json.load(sys.stdin)
    )
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"s": seconds, "rows": rows, "peak_mb": peak_mb}))
