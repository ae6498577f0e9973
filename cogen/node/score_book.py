"""Which figures may leave a domain: enough text in each, few in a day, and none twice."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from cogen.data.pack import Window
from cogen.evaluate.matrix import Cell
from cogen.node.policy import Policy, refused
from cogen.node.usage import Usage

DIGITS, COUNT_DIGITS = 4, 2
Occasion = Literal["round", "scoring"]


class Scorer(Protocol):
    """Who decides whether a model is scored, and gives the figure."""

    def __call__(self, digest: str, heldout: HeldoutText, work: Callable[[], Cell]) -> Cell | None:
        """The figure of the model of this digest; None where none may leave.

        Args:
            work: scores it.
        """


class HeldoutText:
    """The windows that are scored, and the number of documents that they come from."""

    def __init__(self, windows: Sequence[Window], num_documents: int) -> None:
        self.windows, self.num_documents = list(windows), min(num_documents, len(windows))
        self.num_tokens = sum(len(w.tokens) for w in self.windows)

    def digest(self) -> str:
        """sha256 of all tokens."""
        found = hashlib.sha256()
        for window in self.windows:
            found.update(len(window.tokens).to_bytes(8, "big") + window.tokens.tobytes())
        return found.hexdigest()


def score_always(digest: str, heldout: HeldoutText, work: Callable[[], Cell]) -> Cell | None:
    """A simulated domain's scorer: every figure, in full precision."""
    return work() if heldout.windows else None


class ScoreBook:
    """A joined domain's scorer. It counts a scoring before it begins, and gives a figure again that was given before.

    Args:
        precision: of the base, on which a figure depends.
    """

    def __init__(self, policy: Policy, usage: Usage, precision: str, occasion: Occasion) -> None:
        self.policy, self.usage, self.precision, self.occasion = policy, usage, precision, occasion

    def __call__(self, digest: str, heldout: HeldoutText, work: Callable[[], Cell]) -> Cell | None:
        """The figure, in four digits, of an amount of text in two. None where figures stay here, the text is too short, or today's have been used up."""
        if not self.policy.evaluation_leaves or self.too_short(heldout):
            return None
        key = self._key(digest, heldout)
        if (given := self.usage.figure(key)) is not None:
            return Cell("", "", given["bits_per_byte"], _about(given["num_bytes"]), _about(given["num_tokens"]))
        if self._is_over(key):
            return None
        self.usage.begin("round figure" if self.occasion == "round" else "figure", key)
        cell = work()
        if not math.isfinite(cell.bits_per_byte):
            raise refused("a model with a finite score", "another")
        figure = {"bits_per_byte": rounded(cell.bits_per_byte)}
        num_bytes, num_tokens = _about(cell.num_bytes), _about(cell.num_tokens)
        self.usage.keep_figure(key, {**figure, "num_bytes": num_bytes, "num_tokens": num_tokens})
        return Cell(cell.model, cell.domain, figure["bits_per_byte"], num_bytes, num_tokens)

    def require(self, digests: Sequence[str], heldout: HeldoutText) -> None:
        """Refuse a request of which not every figure may leave.

        Raises:
            PolicyError: too little text, or more figures than are left for today.
        """
        policy = self.policy
        if self.too_short(heldout):
            wanted = f"held-out text of {policy.min_scored_tokens} tokens in {policy.min_scored_documents} documents"
            raise refused(wanted, "less at this domain")
        keys = {self._key(digest, heldout) for digest in digests}
        new = {key for key in keys if self.usage.figure(key) is None}
        used = self.usage.begun("figure", "round figure")
        if policy.max_scorings_per_day and len(used | new) > policy.max_scorings_per_day:
            limit, total = policy.max_scorings_per_day, len(used | new)
            raise refused(f"up to {limit} figures of held-out text a day", f"{total} with these")

    def too_short(self, heldout: HeldoutText) -> bool:
        """Whether the text is too short for a figure to leave."""
        policy = self.policy
        few = heldout.num_tokens < policy.min_scored_tokens or heldout.num_documents < policy.min_scored_documents
        return few or not heldout.windows

    def _is_over(self, key: str) -> bool:
        """Whether one more figure would be beyond today's limit; figures of rounds leave half of it for models."""
        limit = self.policy.max_scorings_per_day
        if not limit:
            return False
        rounds = len(self.usage.begun("round figure") | {key})
        if self.occasion == "round" and rounds > limit // 2:
            return True
        return len(self.usage.begun("figure", "round figure") | {key}) > limit

    def _key(self, digest: str, heldout: HeldoutText) -> str:
        return hashlib.sha256(f"{digest} {heldout.digest()} {self.precision}".encode()).hexdigest()


def rounded(value: float, digits: int = DIGITS) -> float:
    """To so many significant digits."""
    return float(f"{value:.{digits}g}")


def _about(count: int) -> int:
    """An amount of text in two digits: the exact one would tell the length of a document that was added."""
    return int(rounded(count, COUNT_DIGITS))
