"""The models of a run that a domain knows, by the digest of their factors: only these are scored.

`models.jsonl` in the folder of a run has one line a model: a round's start that this domain got, what it sent itself, and
as far as the policy allows, the run's one combined adapter and adapters of other domains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cogen.evaluate.matrix import EXPERT_PREFIX
from cogen.node.policy import refused
from cogen.runs import append_line, read_lines

Role = Literal["start", "own", "combined", "other"]
BASE_DIGEST = "base"  # of every adapter that changes nothing


class KnownModels:
    """The models of one run; `path` is its `models.jsonl`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, role: Role, digest: str, round_number: int = 0, reply: str = "") -> None:
        """Note a model, once.

        Args:
            reply: the key of the kept reply that holds the factors, of this domain's own model.
        """
        line = {"role": role, "sha256": digest, "round": round_number, **({"reply": reply} if reply else {})}
        if line not in read_lines(self.path):
            append_line(self.path, line, durable=True)

    def digests(self, *roles: Role) -> set[str]:
        """Of the models with one of these roles."""
        return {line["sha256"] for line in read_lines(self.path) if line.get("role") in roles}

    def require_one_start(self, digest: str, round_number: int) -> None:
        """Refuse a second start of a round: replies over the same blocks from two starts tell more than one.

        Raises:
            PolicyError: the round was trained from another start.
        """
        past = [line for line in read_lines(self.path) if line.get("role") == "start" and line["round"] == round_number]
        if any(line["sha256"] != digest for line in past):
            raise refused("the start from which this round was trained before", "another one")

    def own_reply(self) -> str | None:
        """The key of the reply with this domain's newest own model."""
        own = [line for line in read_lines(self.path) if line.get("role") == "own"]
        return max(own, key=lambda line: int(line["round"]))["reply"] if own else None

    def admit(self, name: str, digest: str, max_shared_experts: int) -> None:
        """Let a model be scored, or refuse it.

        A run has one combined adapter: the first that is asked for. An adapter of another domain is one whose name says so.

        Raises:
            PolicyError: the model is none of this run that this domain knows.
        """
        if digest == BASE_DIGEST or digest in self.digests("start", "own", "combined", "other"):
            return
        if not self.digests("own"):
            raise refused("a model of a run that this domain has trained in", "one of another run")
        role: Role = "other" if name.startswith(EXPERT_PREFIX) else "combined"
        most = max_shared_experts if role == "other" else 1
        if len(self.digests(role)) >= most:
            got = f"more than {most} adapters of other domains" if role == "other" else "a second combined one"
            raise refused("models of this run, one combined adapter among them", got)
        self.add(role, digest)
