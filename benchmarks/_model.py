"""A LightGBM classifier of 100 trees over 30 floats, as the registry gets it."""

from __future__ import annotations

import msgspec
import numpy as np
from lightgbm import LGBMClassifier

from trimtab.core.hashing import bytes_hash
from trimtab.features.encoding import Encoding
from trimtab.training.fitting.artifact import Artifact, Golden, encode_artifact, make_golden, scorer_for
from trimtab.training.fitting.fitted import Fitted
from trimtab.training.runtimes import runtime_for

FEATURES = 30


def fitted(*, rows: int = 5_000) -> Fitted:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(rows, FEATURES))
    target = (matrix[:, :3].sum(axis=1) + generator.normal(size=rows) > 0).astype(np.int64)
    estimator = LGBMClassifier(n_estimators=100)
    runtime = runtime_for(estimator)
    runtime.configure(estimator, seed=0, threads=1)
    estimator.fit(matrix, target)
    names = tuple(f"x{i}" for i in range(FEATURES))
    draft = Artifact(
        model="bench",
        task="binary",
        metric="log_loss",
        runtime=runtime.name,
        trust=None,
        kind="LGBMClassifier",
        inputs=names,
        encoding=Encoding(dtypes=dict.fromkeys(names, "float"), vocabularies={}),
        step=None,
        estimator=runtime.save(estimator),
        row_exact=True,
        row_tolerance=0.0,
        golden=Golden(b"", b""),
    )
    scorer = scorer_for(draft)
    artifact = msgspec.structs.replace(draft, golden=make_golden(scorer, matrix))
    data = encode_artifact(artifact)
    return Fitted(
        model="bench",
        recipe="0" * 64,
        features="0" * 64,
        artifact=artifact,
        data=data,
        digest=bytes_hash(data),
        scorer=scorer,
        importance=None,
        cut_us=0,
        positions={},
        rows=rows,
        seed=0,
    )
