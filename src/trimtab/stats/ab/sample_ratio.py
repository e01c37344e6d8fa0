"""A check that the variants of an experiment got their shares of the units. It may be repeated after every block."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from trimtab.core.errors import Misuse
from trimtab.stats.ab.arms import FloatArray

# the concentration of the Dirichlet mixture; with 1,000, the check is best at finding shares that are wrong by .016
CONCENTRATION = 1_000.0


class SampleRatio(msgspec.Struct, frozen=True, kw_only=True):
    """The check after some blocks. If it fails, the variants cannot be compared."""

    units: tuple[int, ...]  # the number of units of each variant
    expected: tuple[float, ...]  # the number of units that each variant should have
    p: float  # the p value; it is valid at every look
    holds: bool
    failed: int | None  # the block after which the check failed first (0 = the first block); None: it never failed


def sample_ratio(units: ArrayLike, weights: ArrayLike, *, error: float = 0.001) -> SampleRatio:
    """Check the number of units of each variant. Once it has failed, the check stays failed.

    Args:
        units: The number of units by block and variant, shape (blocks, variants).
        weights: The share that each variant should get, shape (variants,); if it changes, shape (blocks, variants).
        error: The probability that the check ever fails, over all calls, although the variants get their shares.

    Raises:
        Misuse: The shapes differ, a number is negative, or a variant with units has a weight of 0.

    Source: Lindon & Malek (2022), "Anytime-valid inference for multinomial count data".

    >>> sample_ratio([[5_000, 5_100], [4_980, 5_010]], [0.5, 0.5]).holds
    True
    >>> sample_ratio([[49_000, 51_000]], [0.5, 0.5]).holds
    False
    """
    counts = np.asarray(units, np.float64)
    given = np.asarray(weights, np.float64)
    if counts.ndim != 2 or given.shape not in (counts.shape, counts.shape[1:]):
        raise Misuse(
            f"sample ratio: needs a weight for each variant; found units of shape {counts.shape} and weights of shape "
            f"{given.shape}."
        )
    shares = np.broadcast_to(given, counts.shape)
    if (counts < 0.0).any() or (shares < 0.0).any() or ((shares == 0.0) & (counts > 0.0)).any():
        raise Misuse(
            "sample ratio: a number of units or a weight is negative, or a variant with units has the weight 0. Give "
            "the weights by which the units were assigned."
        )
    shares = shares / np.maximum(shares.sum(1, keepdims=True), 1e-300)
    evidence, earlier, p, failed = 0.0, 0.0, 1.0, None
    start = 0
    for block in range(counts.shape[0]):
        if block and not np.array_equal(shares[block], shares[block - 1]):
            # the shares have changed: count units from this block on, and multiply by the evidence before it
            start, earlier = block, evidence
        seen = counts[start : block + 1].sum(0)
        evidence = earlier + _log_evidence(seen, shares[block])
        p = min(p, float(np.exp(-max(evidence, 0.0))))
        failed = block if failed is None and p <= error else failed
    total = (counts.sum(1, keepdims=True) * shares).sum(0)
    return SampleRatio(
        units=tuple(int(count) for count in counts.sum(0)),
        expected=tuple(float(one) for one in total),
        p=p,
        holds=failed is None,
        failed=failed,
    )


def _log_evidence(counts: FloatArray, shares: FloatArray) -> float:
    """Return the log likelihood ratio of a mixture of shares (Dirichlet, around `shares`) against `shares`."""
    used = shares > 0.0
    if not used.any():
        return 0.0
    counts, prior = counts[used], CONCENTRATION * shares[used]
    mixed = gammaln(prior + counts).sum() - gammaln(prior).sum()
    mixed += gammaln(prior.sum()) - gammaln(prior.sum() + counts.sum())
    return float(mixed - counts @ np.log(shares[used]))
