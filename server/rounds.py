"""The rounds of a run: ask every client, check, aggregate increments, checkpoint; then score.

A plain loop rather than a Flower Strategy: `Strategy.start` counts from 1, waits without limit for a
minimum of nodes, and goes on when every client has failed; a run here resumes at any round, has a
deadline, and ends with an error when a round has too few valid replies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from cogen.adapter import Adapter, Factors, factor_digest
from cogen.base import describe_base
from cogen.config import Domain, load_config
from cogen.errors import FederationError, ReplyError
from cogen.evaluate.matrix import Cell, Evaluation
from cogen.files import write_file
from cogen.node.request import settings_for
from cogen.runs import RunFolder
from cogen.train.schedule import plan_round
from server.aggregate import Aggregated, aggregate, first_global
from server.replies import Expected, Reply, check_reply
from server.state import load_states, save_states

if TYPE_CHECKING:
    from flwr.serverapp import Grid

POLL_SECONDS = 0.1
MAX_POLL_SECONDS = 1.0
ROSTER_SECONDS = 60.0
HELLO_SECONDS = 300.0


class Coordinator:
    """One run: its folder, its settings, and who answers for which domain."""

    def __init__(self, grid: Grid, run: RunFolder) -> None:
        self.grid = grid
        self.run = run
        self.config = load_config(run.config)
        self.base = describe_base(self.config.base.name)
        self.domains = {d.name: d for d in self.config.domains}
        self.nodes: dict[int, str] = {}

    def run_all(self) -> None:
        """Every round that is left, then the merged adapter and the matrix."""
        done, rounds = self.run.last_complete_round(), self.config.federation.num_rounds
        self.run.append_event(
            "run_started",
            run=self.run.path.name,
            base=self.base.name,
            domains=list(self.domains),
            num_rounds=rounds,
            resumed=self.run.events_path.is_file(),
        )
        self.nodes = self._roster()
        if not self.run.round(0).exists():
            with self.run.building_round(0) as folder:
                self._adapter(first_global(self.base, self.config), {"kind": "start"}).save(folder / "global")
        for number in range(done + 1, rounds + 1):
            self._round(number)
        final = Adapter.load(self.run.round(rounds) / "global")
        final.save(self.run.merged)
        self._evaluate(final)

    def _round(self, number: int) -> None:
        """One round; its folder appears when it is complete."""
        began = time.monotonic()
        self.run.append_event("round_started", round=number)
        current = Adapter.load(self.run.round(number - 1) / "global").factors
        down = {"global": _to_record(current)}
        replies = self._collect(number, current, self._ask("train", down, number))
        if len(replies) < self.config.min_valid_clients:
            raise FederationError(
                f"round {number} failed",
                expected=f"at least {self.config.min_valid_clients} valid replies",
                got=f"{len(replies)} of {len(self.domains)}",
                where=str(self.run.events_path),
                fix="The reasons are there; mend them and run again with --resume.",
            )
        result = aggregate(self.config, current, replies, number, load_states(self.run.round(number - 1)))
        self._checkpoint(number, replies, result)
        self._report_round(number, current, replies, result, time.monotonic() - began)

    def _collect(
        self, number: int, current: Mapping[str, Factors], answers: Iterable[tuple[str, Message | None]]
    ) -> list[Reply]:
        """Valid replies by name of domain; the others leave their reason in the events."""
        replies: dict[str, Reply] = {}
        for domain, answer in answers:
            try:
                replies[domain] = self._check(self.domains[domain], current, answer)
            except ReplyError as error:
                self.run.append_event("client_left_out", round=number, domain=domain, reason=str(error))
                continue
            reply = replies[domain]
            shown = {k: v for k, v in vars(reply).items() if k != "factors"}
            rank = self.config.rank_of(self.domains[domain])
            self.run.append_event("client_replied", round=number, rank=rank, bytes_down=_num_bytes(current), **shown)
        return [replies[name] for name in sorted(replies)]

    def _check(self, domain: Domain, current: Mapping[str, Factors], answer: Message | None) -> Reply:
        if answer is None:
            limit = f"{self.config.federation.round_deadline_seconds:g} s"
            raise _no_reply(f"a reply within {limit}", "none", domain.name)
        if answer.has_error():
            raise _no_reply("a reply", f"error {answer.error.code}: {_last_line(answer.error.reason)}", domain.name)
        bound = self.config.federation.max_increment_norm
        rank = self.config.rank_of(domain)
        plan = plan_round(self.config.train, 1, self.config.federation.num_rounds)
        tokens = plan.num_blocks * self.config.train.block_tokens
        asked = Expected(domain.name, rank, self.base.contract, current, bound, tokens)
        return check_reply(answer.content, asked)

    def _checkpoint(self, number: int, replies: list[Reply], result: Aggregated) -> None:
        """The round's folder, whole; with a single round the replies are the experts as well."""
        parents = [
            {"name": r.domain, "weight": w, "factors_sha256": factor_digest(r.factors)}
            for r, w in zip(replies, result.weights, strict=True)
        ]
        about = {"kind": "global", "round": number, "num_tokens": sum(r.num_tokens for r in replies)}
        about |= {"energy_cut_frac": result.energy_cut_frac, "parents": parents}
        with self.run.building_round(number) as folder:
            self._adapter(result.factors, about).save(folder / "global")
            for reply in replies:
                expert = self._adapter(reply.factors, self._expert_manifest(reply, number))
                expert.save(folder / "clients" / reply.domain)
                if self.config.federation.num_rounds == 1:
                    expert.save(self.run.expert(reply.domain))
            save_states(folder, result.states)
            write_file(folder / "round.json", json.dumps({"format": 1, **about}, sort_keys=True).encode())

    def _expert_manifest(self, reply: Reply, number: int) -> dict[str, object]:
        return {
            "kind": "expert" if self.config.federation.num_rounds == 1 else "reply",
            "domain": reply.domain,
            "round": number,
            "num_tokens": reply.num_tokens,
            "parents": [],
        }

    def _report_round(
        self, number: int, current: Mapping[str, Factors], replies: list[Reply], result: Aggregated, seconds: float
    ) -> None:
        self.run.append_event(
            "round_finished",
            round=number,
            num_valid=len(replies),
            num_clients=len(self.domains),
            num_tokens=sum(r.num_tokens for r in replies),
            bits_per_byte_before=_mean(r.bits_per_byte_before for r in replies),
            bits_per_byte_after=_mean(r.bits_per_byte_after for r in replies),
            bytes_up=sum(r.bytes_up for r in replies),
            bytes_down=_num_bytes(current) * len(self.nodes),
            energy_cut_frac=result.energy_cut_frac,
            seconds=seconds,
        )

    def _evaluate(self, final: Adapter) -> None:
        """Every domain scores base, experts and combined on its own held-out part, and sends numbers."""
        models = {f"expert:{d}": self.run.expert(d) for d in self.domains if self.run.expert(d).is_dir()}
        factors = {name: Adapter.load(folder).factors for name, folder in models.items()}
        factors["combined"] = final.factors
        scaling = self.config.train.scaling
        content: dict[str, ArrayRecord | ConfigRecord] = {name: _to_record(f) for name, f in factors.items()}
        content["models"] = ConfigRecord(dict.fromkeys(factors, scaling))
        found: dict[tuple[str, str], Cell] = {}
        for domain, answer in self._ask("evaluate", content, self.config.federation.num_rounds):
            if answer is None or answer.has_error():
                reason = "no scores in time" if answer is None else _last_line(answer.error.reason)
                self.run.append_event("client_left_out", round=0, domain=domain, reason=f"scores: {reason}")
                continue
            try:
                scored = [_cell(m, domain, answer.content.metric_records[m]) for m in ("base", *factors)]
            except (KeyError, ValueError, TypeError) as error:
                reason = f"scores: {type(error).__name__}: {error}"
                self.run.append_event("client_left_out", round=0, domain=domain, reason=reason)
                continue
            found.update({(cell.model, domain): cell for cell in scored})
        rows = ["base", *factors]
        cells = tuple(found[m, d] for m in rows for d in self.domains if (m, d) in found)
        if not cells:
            raise FederationError(
                "cannot score",
                expected="numbers from at least one domain",
                got="none",
                where=str(self.run.events_path),
                fix="The reasons are there; mend them and run again with --resume.",
            )
        write_file(self.run.evaluation, Evaluation(cells).to_json().encode())
        self.run.append_event("evaluated", num_cells=len(cells))

    def _roster(self) -> dict[int, str]:
        """Node id to domain, once every domain has a node or the wait is over."""
        until = time.monotonic() + ROSTER_SECONDS
        while len(ids := list(self.grid.get_node_ids())) < len(self.domains) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        content = RecordDict({"request": ConfigRecord({"run": str(self.run.path)})})
        found: dict[int, str] = {}
        for node, answer in self._exchange("query.hello", dict.fromkeys(ids, content), HELLO_SECONDS):
            if answer is None or answer.has_error():
                reason = "no answer" if answer is None else _last_line(answer.error.reason)
                self.run.append_event("client_left_out", round=0, domain=f"node {node}", reason=f"hello: {reason}")
                continue
            domain = str(answer.content.config_records["about"]["domain"])
            if domain in self.domains and domain not in found.values():
                found[node] = domain
        return found

    def _ask(
        self, kind: str, shared: Mapping[str, ArrayRecord | ConfigRecord], number: int
    ) -> Iterable[tuple[str, Message | None]]:
        """Send `shared` and its own request to every domain; yield each answer as it comes, None for those that never do."""
        contents = {n: RecordDict({**shared, "request": self._request(d, number)}) for n, d in self.nodes.items()}
        for node, answer in self._exchange(kind, contents, self.config.federation.round_deadline_seconds):
            yield self.nodes[node], answer
        for domain in sorted(self.domains.keys() - set(self.nodes.values())):
            yield domain, None

    def _exchange(
        self, kind: str, contents: Mapping[int, RecordDict], seconds: float
    ) -> Iterable[tuple[int, Message | None]]:
        messages = [Message(c, message_type=kind, dst_node_id=i, ttl=seconds + 60.0) for i, c in contents.items()]
        waiting = dict(zip(self.grid.push_messages(messages), contents, strict=True))
        until = time.monotonic() + seconds
        pause = POLL_SECONDS
        while waiting and time.monotonic() < until:
            for answer in self.grid.pull_messages(list(waiting)):
                yield waiting.pop(answer.metadata.reply_to_message_id), answer
                pause = POLL_SECONDS
            time.sleep(pause if waiting else 0.0)
            pause = min(1.5 * pause, MAX_POLL_SECONDS)
        for node in waiting.values():
            yield node, None

    def _request(self, domain: str, number: int) -> ConfigRecord:
        settings = settings_for(self.config, self.domains[domain])
        scaling = self.config.train.scaling
        return ConfigRecord({"run": str(self.run.path), "round": number, "scaling": scaling, "settings": settings})

    def _adapter(self, factors: Mapping[str, Factors], manifest: Mapping[str, object]) -> Adapter:
        return Adapter(factors, self.base.name, self.base.contract, manifest)


def _to_record(factors: Mapping[str, Factors]) -> ArrayRecord:
    arrays = {f"{n}.{side}": getattr(f, side).contiguous().numpy() for n, f in factors.items() for side in "ab"}
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _num_bytes(factors: Mapping[str, Factors]) -> int:
    return sum(f.a.nbytes + f.b.nbytes for f in factors.values())


def _cell(model: str, domain: str, record: Mapping[str, Any]) -> Cell:
    bits = float(record["bits_per_byte"])
    if not 0.0 <= bits < float("inf"):
        raise ValueError(f"bits_per_byte of {model} is {bits}")
    return Cell(model, domain, bits, int(record["num_bytes"]), int(record["num_tokens"]))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _no_reply(expected: str, got: str, domain: str) -> ReplyError:
    return ReplyError(
        "no reply", expected=expected, got=got, where=f"domain {domain!r}", fix="It is left out of this round."
    )


def _last_line(reason: str | None) -> str:
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
