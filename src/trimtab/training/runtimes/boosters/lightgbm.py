"""LightGBM: models are stored as the library's text, and scored through its C interface."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import Corrupt, Misuse
from trimtab.run.progress import is_listening, report
from trimtab.training.runtimes.boosters.lightgbm_booster import Booster
from trimtab.training.runtimes.formats import ExportedCode, Format, Inspected, ModelFile
from trimtab.training.runtimes.library import LibraryRuntime
from trimtab.training.runtimes.scoring_paths import RowCall, ScoringPaths, with_paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.training.runtimes.ports import Array

_LONGEST = 10_000  # the library's limit for the rows of a list
_DEGREES = 31  # relevance may be 0 to 30, unless `label_gain` sets other values
_PARAMETER = re.compile(r"^\[([^:\]]+): ([^\]]*)\]$", re.MULTILINE)


def read_booster(data: bytes) -> Any:
    """Load the library's model (a booster) from its text."""
    import lightgbm

    return lightgbm.Booster(model_str=data.decode())


def score_exported(data: bytes, inputs: list[str]) -> Any:
    """Return the scorer of an exported model file."""
    import numpy as np

    booster = read_booster(data)
    return lambda matrix: np.asarray(booster.predict(matrix, num_threads=1), np.float64)


def _flavor(file: str, kind: str, made_with: Mapping[str, str]) -> dict[str, Any]:
    version = made_with.get("lightgbm")
    return {"data": file, "code": None, "lgb_version": version, "model_class": "lightgbm.basic.Booster"}


def _parameters(data: bytes) -> dict[str, str]:
    _, _, rest = data.decode().partition("\nparameters:")
    return dict(_PARAMETER.findall(rest.partition("end of parameters")[0]))


def _contributions(data: bytes, inputs: NDArray[Any], centred: bool) -> tuple[Any, Any]:
    booster = read_booster(data)
    found = booster.predict(inputs, pred_contrib=True, num_threads=1)
    return found, booster.predict(inputs, raw_score=True, num_threads=1)


def _inspect(file: ModelFile) -> Inspected:
    if not file.data.startswith(b"tree\n"):
        raise Corrupt(f"lightgbm: these {len(file.data)} bytes are not a booster in text form.")
    _check_trees(file.data)
    try:
        booster = Booster(file.data)
        names = booster.names()
    except UnicodeDecodeError as error:
        raise Corrupt(f"lightgbm: these bytes are not a booster: {error}.") from error
    return Inspected(runtime="lightgbm", data=file.data, kind="Booster", inputs=names, count=booster.inputs)


def _check_trees(data: bytes) -> None:
    """Refuse a model whose trees were cut short: they have fewer bytes than the tree sizes at the beginning add up to.

    LightGBM would read beyond the end of such bytes and crash.
    """
    sizes = re.search(rb"^tree_sizes=([\d ]*)", data, re.MULTILINE)
    if sizes is None:  # old versions of LightGBM did not write the sizes
        return
    stated = sum(int(size) for size in sizes[1].split())
    found = len(data) - (data.find(b"\nTree=0") + 1 or len(data))
    if found < stated:
        raise Corrupt(f"lightgbm: the file was cut short: its trees should have {stated} bytes, found {found}.")


class LightgbmRuntime(LibraryRuntime):
    """Fits and stores LightGBM's estimators. Equal seeds and data give equal text, with any number of threads."""

    name = "lightgbm"
    row_exact = True
    format = Format(
        export_file="model.txt",
        exported=ExportedCode(score_exported, needs=(read_booster,)),
        flavor=_flavor,
        parameters=_parameters,
        contributions=_contributions,
        inspect=_inspect,
    )

    def handles(self, estimator: Any) -> bool:
        import lightgbm

        return isinstance(estimator, lightgbm.LGBMModel)

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        given = estimator.get_params()
        chosen: dict[str, Any] = {"n_jobs": threads, "deterministic": True}
        if not given.get("force_col_wise"):
            chosen["force_row_wise"] = True
        if given.get("random_state") is None:
            chosen["random_state"] = seed
        if "verbose" not in given and "verbosity" not in given:
            chosen["verbosity"] = -1
        estimator.set_params(**chosen)

    @contextmanager
    def progress(self, estimator: Any) -> Iterator[dict[str, Any]]:
        yield {"callbacks": [_report]} if is_listening() else {}

    def ranks(self, estimator: Any) -> bool:
        import lightgbm

        return isinstance(estimator, lightgbm.LGBMRanker)

    def fit_lists(
        self, estimator: Any, inputs: Array, relevance: Array, sizes: Array, weights: Array | None = None
    ) -> Any:
        import numpy as np

        if int(sizes.max()) > _LONGEST:
            raise Misuse(
                f"LGBMRanker: a list has {int(sizes.max()):,} rows, but LightGBM takes {_LONGEST:,} at most. Give "
                "shorter lists (only what people were shown), or use an estimator that learns from single "
                "rows: LGBMRegressor."
            )
        degrees = len(estimator.get_params().get("label_gain") or range(_DEGREES))
        bad = relevance[(relevance != np.floor(relevance)) | (relevance >= degrees)]
        if bad.size:
            raise Misuse(
                f"LGBMRanker: relevance must be a whole number from 0 to {degrees - 1}; {bad.size} of "
                f"{relevance.size} labels are not, e.g. {bad[0]:g}. Let the label's expression give such "
                "numbers, give LGBMRanker a longer label_gain, or use an estimator that predicts numbers: "
                "LGBMRegressor."
            )
        with self.progress(estimator) as options:
            row_weights = None if weights is None else np.repeat(weights, sizes)
            estimator.fit(inputs, relevance, group=sizes, sample_weight=row_weights, **options)
        return estimator

    def save(self, fitted: Any) -> bytes:
        return str(fitted.booster_.model_to_string()).encode()

    def load(self, data: bytes) -> ScoringPaths:
        booster = Booster(data)
        return with_paths(booster, self.scoring_paths(booster))

    def scoring_paths(self, model: Booster) -> Mapping[str, RowCall]:
        call = model.prepared_call()
        return {} if call is None else {"prepared": call}

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        import numpy as np

        return np.asarray(fitted.booster_.feature_importance("gain"), np.float64)


def _report(env: Any) -> None:
    report(env.iteration + 1 - env.begin_iteration, env.end_iteration - env.begin_iteration)


RUNTIME = LightgbmRuntime()
