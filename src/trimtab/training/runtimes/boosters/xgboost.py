"""XGBoost: models are stored as UBJSON, and scored through the library's C interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from trimtab.core.errors import Corrupt, Misuse
from trimtab.run.progress import is_listening, report
from trimtab.training.runtimes.boosters.xgboost_booster import Booster, no_linear
from trimtab.training.runtimes.formats import ExportedCode, Format, Inspected, ModelFile
from trimtab.training.runtimes.library import LibraryRuntime, tree_count
from trimtab.training.runtimes.scoring_paths import RowCall, ScoringPaths, per_thread, with_paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trimtab.training.runtimes.ports import Array


def read_booster(data: bytes) -> Any:
    """Load the library's model (a booster), and the range of the rounds (trees) that scores use.

    If training was stopped early, these are the rounds up to the best one. (0, 0) stands for all rounds.
    """
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(data))
    booster.set_param({"nthread": 1})
    best = booster.attr("best_iteration")
    return booster, (0, 0) if best is None else (0, int(best) + 1)


def score_exported(data: bytes, inputs: list[str]) -> Any:
    """Return the scorer of an exported model file."""
    import numpy as np

    booster, rounds = read_booster(data)
    return lambda matrix: np.asarray(
        booster.inplace_predict(matrix, iteration_range=rounds, missing=np.nan), np.float64
    )


def _flavor(file: str, kind: str, made_with: Mapping[str, str]) -> dict[str, Any]:
    about = {"xgb_version": made_with.get("xgboost"), "model_class": "xgboost.core.Booster"}
    return {"data": file, "code": None, "model_format": "ubj", **about}


def _parameters(data: bytes) -> dict[str, str]:
    booster, _ = read_booster(data)
    found: dict[str, str] = {}
    _collect(msgspec.json.decode(booster.save_config())["learner"], found)
    return found | {"num_boosted_rounds": str(booster.num_boosted_rounds())}


def _collect(node: Any, found: dict[str, str]) -> None:
    """Add all parameters in a configuration to `found`, however deeply they are nested."""
    for name, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, str) and name not in ("version", "name"):
            found[name] = value
        else:
            _collect(value, found)


def _contributions(data: bytes, inputs: NDArray[Any], centred: bool) -> tuple[Any, Any]:
    import numpy as np
    import xgboost

    booster, rounds = read_booster(data)
    table = xgboost.DMatrix(inputs, missing=np.nan, nthread=1)
    # `inputs` has no names that could be compared with the model's
    plain: Any = {"iteration_range": rounds, "validate_features": False}
    return booster.predict(table, pred_contribs=True, **plain), booster.predict(table, output_margin=True, **plain)


def _inspect(file: ModelFile) -> Inspected:
    import xgboost

    if file.data[:1] != b"{":
        raise Corrupt("xgboost: these bytes are neither JSON nor UBJSON.")
    try:
        booster, _ = read_booster(file.data)
    except xgboost.core.XGBoostError as error:
        raise Corrupt(f"xgboost: these bytes are not a booster: {str(error)[:200]}") from error
    data = bytes(booster.save_raw("ubj"))
    RUNTIME.load(data)
    config = msgspec.json.decode(booster.save_config())
    return Inspected(
        runtime="xgboost",
        data=data,
        kind="Booster",
        inputs=tuple(booster.feature_names or ()),
        count=booster.num_features(),
        accepts_null=config["learner"]["gradient_booster"]["name"] != "gblinear",
    )


class XgboostRuntime(LibraryRuntime):
    """Fits and stores XGBoost's estimators. With a fixed seed, equal data give equal bytes."""

    name = "xgboost"
    row_exact = True
    format = Format(
        export_file="model.ubj",
        exported=ExportedCode(score_exported, needs=(read_booster,)),
        requirements_note="xgboost-cpu of the same version gives equal scores and is much smaller (no graphics cards)",
        flavor=_flavor,
        parameters=_parameters,
        contributions=_contributions,
        inspect=_inspect,
    )

    def handles(self, estimator: Any) -> bool:
        import xgboost

        return isinstance(estimator, xgboost.XGBModel)

    def configure(self, estimator: Any, *, seed: int, threads: int) -> None:
        given = estimator.get_params()
        if given.get("booster") == "gblinear":
            raise no_linear(f"estimator {type(estimator).__name__}")
        chosen: dict[str, Any] = {"n_jobs": threads}
        if given.get("random_state") is None:
            chosen["random_state"] = seed
        if given.get("verbosity") is None:
            chosen["verbosity"] = 0
        estimator.set_params(**chosen)

    @contextmanager
    def progress(self, estimator: Any) -> Iterator[dict[str, Any]]:
        if not is_listening():
            yield {}
            return
        given = estimator.get_params().get("callbacks")
        estimator.set_params(callbacks=[*(given or ()), _reporter(tree_count(estimator, 100))])
        try:
            yield {}
        finally:
            estimator.set_params(callbacks=given)

    def ranks(self, estimator: Any) -> bool:
        import xgboost

        return isinstance(estimator, xgboost.XGBRanker)

    def fit_lists(
        self, estimator: Any, inputs: Array, relevance: Array, sizes: Array, weights: Array | None = None
    ) -> Any:
        import numpy as np

        whole = str(estimator.objective) in ("rank:ndcg", "rank:map")
        bad = relevance[relevance != np.floor(relevance)] if whole else relevance[:0]
        if bad.size:
            raise Misuse(
                f"XGBRanker: relevance must be a whole number with {estimator.objective}; {bad.size} of "
                f"{relevance.size} labels are not, e.g. {bad[0]:g}. Let the label's expression give whole "
                'numbers, or use objective="rank:pairwise".'
            )
        with self.progress(estimator) as options:
            lists = np.repeat(np.arange(sizes.size), sizes)
            return estimator.fit(inputs, relevance, qid=lists, sample_weight=weights, **options)

    def save(self, fitted: Any) -> bytes:
        booster = fitted.get_booster()
        if callable(fitted.objective):
            raise Misuse(
                "xgboost: an objective that is a function is not stored with the model. Use an objective by its name."
            )
        return bytes(booster.save_raw("ubj"))

    def load(self, data: bytes) -> ScoringPaths:
        booster = Booster(data)
        return with_paths(booster, self.scoring_paths(booster))

    def scoring_paths(self, model: Booster) -> Mapping[str, RowCall]:
        return {"prepared": per_thread(model.prepared_call)}

    def importance(self, fitted: Any) -> NDArray[Any] | None:
        import numpy as np

        return np.asarray(fitted.feature_importances_, np.float64)


def _reporter(trees: int) -> Any:
    from xgboost.callback import TrainingCallback

    class Trees(TrainingCallback):
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            report(epoch + 1, trees)
            return False

    return Trees()


RUNTIME = XgboostRuntime()
