"""The server's step of a federated round: the weighted mean of the client updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cogen.adapter import Factors
from cogen.merge.factored import Compressed, compress, leading, normalise_weights, stack


@dataclass(frozen=True)
class TrainedFactors:
    """A client's factors of one module, if it did not start from the current factors or its update is scaled.

    Args:
        factors: the trained factors.
        start: the factors it started from; None for the current ones.
        scale: factor on its update.
    """

    factors: Factors
    start: Factors | None = None
    scale: float = 1.0


Reply = Factors | TrainedFactors


def aggregate_updates(
    current: Factors,
    trained: Sequence[Reply],
    weights: Sequence[float],
    rank: int,
    server_learning_rate: float = 1.0,
) -> Compressed:
    """The next global update: the current one plus the weighted mean of the clients' updates.

    With r_k = min(rank of trained_k, R_s), client k began from the first r_k directions of `current`
    and held the others frozen, so that
    new = current + server_learning_rate * sum_k w_k s_k (trained_k - leading(current, r_k)).
    Direction j of `current` thus keeps 1 - server_learning_rate * sum_{k: r_k > j} w_k s_k of itself: a client does
    not shrink directions that it did not train. For a client that started from factors of an earlier round, the
    update is the difference to those.

    Args:
        current: the factors that the server sent, sorted (see `compress`), rank R_s.
        trained: the factors that the clients returned; a rank above R_s means extra directions that started with
            B = 0. s_k is 1 except for `TrainedFactors` with a scale.
        weights: K non-negative weights [tokens]; normalised here.
        rank: rank of the result; lower if there is less to keep.
        server_learning_rate: the server's learning rate.
    Returns: scaling as in `current`; cost O((d_in + d_out) R^2) with R = R_s + sum_k r_k at most, and
        r_k more for each client with a start of its own.
    Raises:
        WeightError: the weights are negative, not finite, sum to 0, or are not K.
    """
    parts, by, taken = _weighted(current, trained, weights, server_learning_rate)
    kept = _rescaled(current, [1.0 - share for share in taken])
    return compress(stack([kept, *parts], [1.0, *by]), rank, current.scaling)


def updates(current: Factors, trained: Sequence[Reply]) -> list[Factors]:
    """s_k (trained_k - leading(start_k, r_k)), as wider pairs of factors of scaling 1.

    Args: see `aggregate_updates`.
    """
    made = []
    for one in map(_as_trained, trained):
        start = current if one.start is None else one.start
        made.append(stack([one.factors, leading(start, one.factors.rank)[0]], [one.scale, -one.scale]))
    return made


def mean_update(current: Factors, trained: Sequence[Reply], weights: Sequence[float]) -> Factors:
    """sum_k w_k s_k (trained_k - leading(start_k, r_k)), as one wider pair of factors of scaling 1.

    Args: see `aggregate_updates`.
    """
    parts, by, taken = _weighted(current, trained, weights, 1.0)
    began = _rescaled(current, [-share for share in taken])
    return stack([began, *parts], [1.0, *by])


def _weighted(
    current: Factors, trained: Sequence[Reply], weights: Sequence[float], server_learning_rate: float
) -> tuple[list[Factors], list[float], list[float]]:
    """Updates and their shares, and for each direction of `current` the sum of the shares of clients that trained it."""
    ones = [_as_trained(one) for one in trained]
    shares = [
        server_learning_rate * w * t.scale for w, t in zip(normalise_weights(weights, len(ones)), ones, strict=True)
    ]
    parts, by = [one.factors for one in ones], list(shares)
    own = [
        (-share, leading(t.start, t.factors.rank)[0])
        for share, t in zip(shares, ones, strict=True)
        if t.start is not None
    ]
    parts, by = [*parts, *(start for _, start in own)], [*by, *(share for share, _ in own)]
    pairs = [(share, t.factors.rank) for share, t in zip(shares, ones, strict=True) if t.start is None]
    taken = [sum(share for share, rank in pairs if rank > j) for j in range(current.rank)]
    return parts, by, taken


def _as_trained(one: Reply) -> TrainedFactors:
    return TrainedFactors(one) if isinstance(one, Factors) else one


def _rescaled(current: Factors, kept: Sequence[float]) -> Factors:
    """`current` with direction j times kept[j]; directions at 0, up to rounding, are dropped."""
    live = [j for j, share in enumerate(kept) if abs(share) > 1e-12]
    shares = current.b.new_tensor([kept[j] for j in live])
    return Factors(a=current.a[live], b=current.b[:, live] * shares, scaling=current.scaling)
