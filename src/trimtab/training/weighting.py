"""Weights and samples of training rows, as a model declares them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from trimtab.core.columns.data import Dtype
from trimtab.core.errors import Misuse
from trimtab.core.expressions.functions import Transform, transform
from trimtab.core.expressions.nodes import Expression, col

Weights: TypeAlias = Literal["balanced"] | Expression
GivenWeights: TypeAlias = Expression | str | Callable[..., Any]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The shares of rows to fit on. The weight of a kept row is 1 / its share. `sample()` makes one.

    The row's key and the seed decide whether a row is kept, so every fit keeps the same rows.  # D54
    """

    negatives: float = 1.0
    positives: float = 1.0
    rows: float = 1.0
    seed: int = 0
    # if unset, not part of the hash, so that models of an earlier trimtab keep their hashes
    classes: dict[str, float] | msgspec.UnsetType = msgspec.UNSET

    def __repr__(self) -> str:
        shares = {"negatives": self.negatives, "positives": self.positives, "rows": self.rows}
        shown = [f"{name}={share}" for name, share in shares.items() if share != 1.0]
        shown += [] if self.classes is msgspec.UNSET else [f"classes={self.classes}"]
        return f"sample({', '.join([*shown, f'seed={self.seed}'])})"


def sample(
    *,
    negatives: float = 1.0,
    positives: float = 1.0,
    rows: float = 1.0,
    classes: Mapping[str | int, float] | None = None,
    seed: int = 0,
) -> Sample:
    """Fit on a share of the rows. Each kept row has the weight 1 / share, so that mean predictions stay right.

    Args:
        negatives: The share of rows with label 0 that are kept.
        positives: The share of rows with label 1 that are kept.
        rows: The share of all rows that are kept, whatever their label. Models of numbers and counts, and rankings
            (which keep whole lists), can only have this share.
        classes: For several classes, the shares of some of them, such as {"on_time": 0.1}. Other classes are kept
            completely.
        seed: The seed. Another seed keeps other rows.

    Raises:
        Misuse: A share is outside (0, 1], all shares are 1, or `classes` or `seed` has a wrong type.

    >>> sample(negatives=0.1, seed=1)
    sample(negatives=0.1, seed=1)
    """
    if classes is not None and not isinstance(classes, Mapping):
        raise Misuse(f'sample: classes={classes!r}. Needed: shares by class, e.g. classes={{"on_time": 0.1}}.')
    by_class = {str(one): share for one, share in (classes or {}).items()}
    given = [("negatives", negatives), ("positives", positives), ("rows", rows)]
    for name, share in (*given, *((f"classes[{one!r}]", share) for one, share in by_class.items())):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 1.0:
            raise Misuse(f"sample: {name}={share!r}. Needed: a share above 0 and up to 1, e.g. {name}=0.1.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise Misuse(f"sample: seed={seed!r}. Needed: a whole number.")
    if negatives == positives == rows == 1.0 == min(by_class.values(), default=1.0):
        raise Misuse("sample: every share is 1, which keeps all rows. Leave sample out, or give negatives=0.1.")
    return Sample(
        negatives=float(negatives),
        positives=float(positives),
        rows=float(rows),
        seed=seed,
        classes={one: float(share) for one, share in by_class.items()} if classes else msgspec.UNSET,
    )


def checked_sample(
    name: str, given: Sample | None, *, binary: bool, classes: Sequence[str] = (), ranks: bool = False
) -> Sample | None:
    """Check that a sample fits the kind of model, and names only classes that the model has. Return the sample.

    Args:
        binary: Whether the model predicts the probability of one class.
        classes: The names of the classes, if there are several.
        ranks: Whether the model ranks lists, which are kept or left out as a whole.

    Raises:
        Misuse: `given` was not made by `tt.sample(...)`, has a share that this kind of model cannot have, or names
            classes that the model does not have.
    """
    if given is None:
        return None
    if not isinstance(given, Sample):
        raise Misuse(f"model {name!r}: sample={given!r}. Needed: tt.sample(negatives=0.1, seed=1).")
    if not binary and (given.negatives, given.positives) != (1.0, 1.0):
        of = "several classes" if classes else "lists" if ranks else "numbers"
        better = "a share of all rows: "
        if classes:
            better = f"shares by class: tt.sample(classes={{{classes[0]!r}: 0.1}}), or "
        raise Misuse(
            f"model {name!r}: sample={given!r} does not fit a model of {of}. Give {better}tt.sample(rows=0.1)."
        )
    if given.classes is not msgspec.UNSET and (unknown := [one for one in given.classes if one not in classes]):
        found = f"its classes are {', '.join(classes)}" if classes else "the model does not have several classes"
        raise Misuse(f"model {name!r}: sample={given!r} names {unknown[0]!r}; {found}.")
    return given


def checked_weights(name: str, given: GivenWeights | None, known: dict[str, Dtype], *, classes: bool) -> Weights | None:
    """Return the weights as an expression over the request's columns and the model's features, or "balanced".

    Args:
        given: "balanced", a column or feature, an expression, or a function whose arguments are names of columns and
            features.
        known: The columns and features that may be used, with their types.
        classes: Whether the model has classes that can be balanced.

    Raises:
        Misuse: A column is unknown, a weight is not a number, or "balanced" is given for a model without classes.
    """
    if given is None:
        return None
    if isinstance(given, str) and given == "balanced":
        if not classes:
            raise Misuse(
                f'model {name!r}: weights="balanced" needs a model of classes: a metric such as log_loss, or a '
                "label with several classes."
            )
        return "balanced"
    expression = _expression(name, given)
    if absent := sorted(expression.columns() - known.keys()):
        raise Misuse(
            f"model {name!r}: weights read {', '.join(absent)}, which is not known. Known: {', '.join(known)}."
        )
    dtype = expression.dtype(known, f"weights of model {name!r}")
    if dtype not in ("float", "int"):
        raise Misuse(f"model {name!r}: weights={given!r} is {dtype}. Needed: a number of at least 0 for each row.")
    return expression


def _expression(name: str, given: Any) -> Expression:
    if isinstance(given, Expression):
        return given
    if isinstance(given, str):
        return col(given)
    if not callable(given):
        raise Misuse(
            f'model {name!r}: weights={given!r}. Needed: "balanced", the name of a column or feature, an expression, '
            "or a function whose arguments name columns and features."
        )
    function = given if isinstance(given, Transform) else transform(given, returns=float)
    arguments = inspect.signature(function.function).parameters
    return function(*(col(argument) for argument in arguments))
