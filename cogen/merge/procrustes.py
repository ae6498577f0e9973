"""Rotate new factors to lie closest to the old ones, so that the moments of an optimizer still fit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cogen.adapter import Factors


def procrustes_align(new: Factors, old: Factors, borders: Sequence[int] = ()) -> Factors:
    """(B G, G^T A) with the orthogonal G that minimises |B G - B_old|^2 + |G^T A - A_old|^2.

    G = P Q^T with B^T B_old + A A_old^T = P D Q^T. The update stays the same, and balanced factors
    stay balanced. Directions mix only between two borders, so that the first r of them keep their span: with the ranks
    of the clients as borders, each client still gets the best cut at its rank.

    Args:
        new: sorted factors of rank R.
        old: factors of the same rank; with another rank, `new` is returned unchanged.
        borders: ranks in 1 ... R at which mixing stops.
    Source: orthogonal Procrustes (Schönemann 1966).
    """
    import torch

    if new.rank != old.rank:
        return new
    edges = [0, *sorted({b for b in borders if 0 < b < new.rank}), new.rank]
    a, b = new.a.clone(), new.b.clone()
    for begin, end in pairwise(edges):
        some = slice(begin, end)
        agreement = new.b[:, some].T @ old.b[:, some] + new.a[some] @ old.a[some].T
        if not bool(agreement.any()):
            continue
        u, _, vh = torch.linalg.svd(agreement.double())
        g = (u @ vh).to(new.a)
        b[:, some], a[some] = new.b[:, some] @ g, g.T @ new.a[some]
    return Factors(a=a, b=b, scaling=new.scaling)
