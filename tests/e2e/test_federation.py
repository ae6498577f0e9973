"""The real ServerApp and the real ClientApp, with one domain per node and the resident trainer."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict

from cogen.adapter import Adapter, factor_digest
from cogen.config import load_config
from cogen.errors import FederationError
from cogen.evaluate.matrix import Evaluation
from cogen.node.answer import resident
from cogen.protocol.factors import through_wire
from cogen.protocol.wire import Frame
from cogen.runs import RunFolder, read_lines
from cogen.train.single import train_adapter
from server.server_app import app as server_app
from tests.in_process_grid import Fault, InProcessGrid
from tests.message_content import frame_of, header_of, rewrite

Start = Callable[..., RunFolder]


@pytest.fixture
def start(tmp_path: Path, config_file: Path) -> Start:
    """Run the ServerApp over an in-process grid; each call is one start of the same or a new run folder."""

    def go(*overrides: str, faults: dict[int, Fault] | None = None, name: str = "run") -> RunFolder:
        run = RunFolder(tmp_path / name)
        if not run.config.exists():
            run.create(load_config(config_file, overrides).to_toml())
        grid = InProcessGrid(len(load_config(run.config).domains), faults)
        server_app(grid, Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""}))
        return run

    return go


def dropped(run: RunFolder) -> dict[str, str]:
    return {e["domain"]: e["reason"] for e in read_lines(run.events_path) if e["event"] == "client_dropped"}


def edit(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Fault:
    """A fault that changes the arrays of a reply."""

    def fault(message: Message, reply: Message) -> Message:
        told = frame_of(reply)
        return rewrite(reply, Frame(told.header, change(dict(told.arrays))))

    return fault


def with_nan(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    next(iter(arrays.values())).flat[0] = np.nan
    return arrays


def with_other_shape(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    key = "model.layers.0.self_attn.q_proj.a"
    return {**arrays, key: arrays[key][:1]}  # (1, d_in) would broadcast silently


def without_a_key(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return dict(list(arrays.items())[1:])


def as_float64(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v.astype(np.float64) for k, v in arrays.items()}


def far_too_large(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v * 1e4 for k, v in arrays.items()}


def set_tokens(value: int | float | None) -> Fault:
    def fault(message: Message, reply: Message) -> Message:
        told = frame_of(reply)
        figures = {**told.header["figures"], "num_tokens": value}
        return rewrite(reply, Frame({**told.header, "figures": figures}, told.arrays))

    return fault


def other_fingerprint(message: Message, reply: Message) -> Message:
    told = frame_of(reply)
    other = {**told.header["fingerprint"], "weights": "0" * 64}
    return rewrite(reply, Frame({**told.header, "fingerprint": other}, told.arrays))


def no_tables(message: Message, reply: Message) -> Message:
    return rewrite(reply, Frame({}, frame_of(reply).arrays))


def no_frame(message: Message, reply: Message) -> Message:
    """A pickle, where a frame should be."""
    reply.content.config_records["0"]["frame"] = pickle.dumps(dict(frame_of(reply).arrays))
    return reply


def silence(message: Message, reply: Message) -> None:
    return None


FAULTS: dict[str, tuple[Fault, str]] = {
    "nan": (edit(with_nan), "NaN"),
    "shape": (edit(with_other_shape), "(1, 32)"),
    "missing key": (edit(without_a_key), "1 missing"),
    "dtype": (edit(as_float64), "float64"),
    "norm": (edit(far_too_large), "client update of norm"),
    "no tokens": (set_tokens(0), "figures.num_tokens: Input should be greater than 0, got 0"),
    "more tokens than asked for": (set_tokens(10**9), "num_tokens up to 512"),
    "no token count": (set_tokens(None), "figures.num_tokens: Input should be a valid integer, got None"),
    "fingerprint": (other_fingerprint, "fingerprint"),
    "no tables": (no_tables, "got None"),
    "pickle": (no_frame, "a whole frame"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_reply_is_dropped_and_the_round_goes_on(name: str, start: Start) -> None:
    """The global model is that of the other two clients, as if the third had never been."""
    fault, reason = FAULTS[name]
    run = start("federation.num_rounds=1", faults={1: fault})
    assert reason in dropped(run)["grid"]
    assert sorted(p.name for p in (run.round(1) / "clients").iterdir()) == ["clinical", "materials"]
    merged = Adapter.load(run.merged)
    assert [p["name"] for p in merged.manifest["parents"]] == ["clinical", "materials"]
    assert run.evaluation.is_file()


def test_a_client_that_raises_is_dropped(start: Start, tmp_path: Path) -> None:
    corpus = tmp_path / "gone.jsonl"
    corpus.write_text((Path(__file__).parents[2] / "seeds/grid.jsonl").read_text())
    config = load_config(tmp_path / "tiny.toml", ["federation.num_rounds=1"])
    domains = [d.model_copy(update={"data": str(corpus)}) if d.name == "grid" else d for d in config.domains]
    run = RunFolder(tmp_path / "run")
    run.create(config.model_copy(update={"domains": tuple(domains)}).to_toml())
    corpus.unlink()
    start()
    assert "no such path" in dropped(run)["grid"]
    assert run.merged.is_dir()


def test_a_client_that_dies_is_dropped_and_the_next_one_gets_a_new_process(start: Start, tmp_path: Path) -> None:
    """The trainer process is killed while it trains the first domain."""
    killed: list[int] = []

    def kill() -> None:
        log = tmp_path / "run" / "nodes" / "clinical" / "train.jsonl"
        while not log.is_file():
            time.sleep(0.01)
        trainer = resident()
        if trainer.pid is not None:
            killed.append(trainer.pid)
            os.kill(trainer.pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    run = start("federation.num_rounds=1", "train.tokens_per_round=8192")
    assert killed
    assert "SIGKILL" in dropped(run)["clinical"]
    assert sorted(p.name for p in (run.round(1) / "clients").iterdir()) == ["grid", "materials"]


def test_a_silent_client_is_dropped_at_the_deadline(start: Start) -> None:
    run = start("federation.num_rounds=1", "federation.round_deadline_seconds=1.5", faults={2: silence})
    assert "within 1.5 s" in dropped(run)["materials"]
    assert run.merged.is_dir()


def test_too_few_valid_replies_end_the_run_and_resuming_gives_what_it_would_have_been(start: Start) -> None:
    """Round 2 fails for two of three; resumed without the fault, the result is bit for bit the undisturbed one."""
    calls = {1: 0, 2: 0}

    def from_round_two(node: int) -> Fault:
        def fault(message: Message, reply: Message) -> Message:
            calls[node] += 1
            return edit(with_nan)(message, reply) if calls[node] == 2 else reply  # type: ignore[return-value]

        return fault

    with pytest.raises(FederationError, match=r"round 2 failed: expected at least 2 valid replies, got 1 of 3"):
        start(faults={n: from_round_two(n) for n in calls})
    resumed = start()
    whole = start(name="whole")
    assert resumed.last_complete_round() == whole.last_complete_round() == 2
    for path in ("merged/adapter_model.safetensors", "merged/cogen.json", "merged/adapter_config.json"):
        assert (resumed.path / path).read_bytes() == (whole.path / path).read_bytes()
    events = [e["event"] for e in read_lines(resumed.events_path)]
    assert events.count("run_failed") == 1
    assert [e["resumed"] for e in read_lines(resumed.events_path) if e["event"] == "run_started"] == [False, True]


def test_one_client_and_one_round_is_local_training_bit_for_bit(
    start: Start, tmp_path: Path, tiny_folder: Path
) -> None:
    """The reply equals what train_adapter gives; the merged delta equals it to float32 rounding."""
    from cogen.base import load_base

    text = (tmp_path / "tiny.toml").read_text()
    blocks = text.split("[[domains]]")
    (tmp_path / "tiny.toml").write_text(blocks[0] + "[[domains]]" + blocks[1] + text[text.index("[train]") :])
    run = start(
        "federation.num_rounds=1",
        "federation.min_valid_clients=1",
        "federation.server_rank=12",
        "train.max_grad_norm=0.01",
    )
    config = load_config(run.config)
    base = load_base(str(tiny_folder), device="cpu", precision="float32")
    corpora = {"clinical": config.domains[0].data}
    alone = train_adapter(base, corpora, config.train, domain="clinical", heldout_frac=config.evaluate.heldout_frac)
    expert = Adapter.load(run.expert("clinical"))
    assert factor_digest(expert.factors) == factor_digest(alone.adapter.factors)
    merged = Adapter.load(run.merged)
    for name, f in expert.factors.items():
        want = f.delta()
        assert float(want.norm()) > 0
        assert float((merged.factors[name].delta() - want).norm()) <= 1e-6 * float(want.norm())


def test_a_round_asked_twice_gives_the_same_reply(start: Start) -> None:
    """Resuming from a copy of round 1 trains round 2 again, from the states of round 1."""
    import shutil

    run = start()
    before = {p.name: (p / "adapter_model.safetensors").read_bytes() for p in (run.round(2) / "clients").iterdir()}
    shutil.rmtree(run.round(2))
    start()
    after = {p.name: (p / "adapter_model.safetensors").read_bytes() for p in (run.round(2) / "clients").iterdir()}
    assert before == after


def test_ranks_may_differ_and_only_what_is_said_leaves(start: Start, tmp_path: Path) -> None:
    """A client of rank 2 replies with rank 2; replies hold factors and five numbers, no text."""
    text = (tmp_path / "tiny.toml").read_text().replace('name = "grid"\n', 'name = "grid"\nrank = 2\n', 1)
    (tmp_path / "tiny.toml").write_text(text)
    run = RunFolder(tmp_path / "run")
    run.create(load_config(tmp_path / "tiny.toml").to_toml())
    grid = InProcessGrid(3)
    server_app(grid, Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""}))
    assert Adapter.load(run.round(2) / "clients" / "grid").rank == 2
    assert Adapter.load(run.round(2) / "clients" / "clinical").rank == 4
    assert Adapter.load(run.merged).rank == 4
    for reply in (m for m in grid.seen if m.metadata.message_type == "train"):
        assert set(reply.content) == {"0"} and set(header_of(reply)) == {"kind", "domain", "figures", "fingerprint"}
        allowed = {"num_tokens", "bits_per_byte_before", "bits_per_byte_after", "seconds"}
        assert set(header_of(reply)["figures"]) == allowed
        assert set(header_of(reply)["fingerprint"]) == {"weights", "tokenizer", "modules"}


def test_the_matrix_has_base_experts_and_combined(start: Start) -> None:
    run = start("federation.num_rounds=1")
    values = json.loads(run.evaluation.read_text())
    rows = {c["model"] for c in values["cells"]}
    assert rows == {"base", "expert:clinical", "expert:grid", "expert:materials", "combined"}
    assert len(values["cells"]) == 15


def test_flwr_run_without_a_prepared_folder_makes_its_own(config_file: Path) -> None:
    """As `flwr run .` does it: only a config is named; a node more than there are domains does no harm."""
    server_app(InProcessGrid(4), Context(7, 0, {}, RecordDict(), {"run": "", "config": str(config_file)}))
    run = RunFolder(config_file.parent / "runs" / "tiny-flwr-7")
    assert run.merged.is_dir()
    assert run.last_complete_round() == 2
    assert dropped(run) == {}


@pytest.mark.parametrize("kind", ["nesterov", pytest.param("adam", marks=pytest.mark.slow)])
def test_a_servers_momentum_lives_through_a_resume(start: Start, kind: str) -> None:
    """Red: server.safetensors is not read. Red: the factors are not turned after a resume (they are in the round)."""
    settings = (f"federation.server_optimizer={kind}", "federation.align_factors=true", "federation.num_rounds=3")
    whole = start(*settings, name="whole")
    calls = {1: 0, 2: 0}

    def in_round_three(node: int) -> Fault:
        def fault(message: Message, reply: Message) -> Message:
            calls[node] += 1
            return edit(with_nan)(message, reply) if calls[node] == 3 else reply  # type: ignore[return-value]

        return fault

    with pytest.raises(FederationError, match="round 3 failed"):
        start(*settings, faults={n: in_round_three(n) for n in calls})
    resumed = start(*settings)
    weights = "merged/adapter_model.safetensors"
    assert (resumed.path / weights).read_bytes() == (whole.path / weights).read_bytes()
    plain = start("federation.num_rounds=3", name="plain")
    assert not (plain.round(3) / "server.safetensors").exists()
    assert (plain.path / weights).read_bytes() != (whole.path / weights).read_bytes()
    first = (run.round(1) / "global" / "adapter_model.safetensors" for run in (plain, whole))
    deltas = [Adapter.load(path.parent).factors for path in first]
    for name in deltas[0]:
        same = kind != "nesterov"  # with adam the first step is the plain one
        close = torch.allclose(deltas[0][name].delta(), deltas[1][name].delta(), atol=1e-5)
        assert close == same, name


def test_mixed_text_and_targets_in_rounds(start: Start) -> None:
    """Red: the server starts from all modules; clients leave the replayed text out."""
    options = ("train.target_modules=['q_proj', 'mlp']", "train.rslora=true", "train.gradient_accumulation_steps=2")
    seeds = Path(__file__).parents[2] / "seeds"
    mixed = (f"train.replay={seeds / 'education.jsonl'}", "train.replay_frac=0.3")
    plain, replayed = start(*options), start(*options, *mixed, name="replayed")
    factors = Adapter.load(replayed.merged).factors
    assert {n.rpartition(".")[2] for n in factors} == {"q_proj", "gate_proj", "up_proj", "down_proj"}
    assert {f.scaling for f in factors.values()} == {4.0}
    assert dropped(replayed) == {} and not dropped(plain)
    assert factor_digest(factors) != factor_digest(Adapter.load(plain.merged).factors)


def infinite_scales(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: np.full_like(v, np.inf) if k.endswith("_scale") else v for k, v in arrays.items()}


def overflowing_scales(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: np.full_like(v, 3e38) if k.endswith("a_scale") else v for k, v in arrays.items()}


def without_scales(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v for k, v in arrays.items() if not k.endswith("_scale")}


def as_float32(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v.astype(np.float32) for k, v in arrays.items()}


INT8_FAULTS = {
    "infinite": (infinite_scales, "NaN or infinity"),
    "overflow": (overflowing_scales, "NaN or infinity"),
    "no scales": (without_scales, "28 missing"),
    "float32": (as_float32, "expected int8"),
}


@pytest.mark.parametrize("name", INT8_FAULTS)
def test_a_faulty_int8_reply_is_dropped(name: str, start: Start) -> None:
    change, reason = INT8_FAULTS[name]
    run = start("federation.num_rounds=1", "federation.wire=int8", faults={1: edit(change)})
    assert reason in dropped(run)["grid"]
    assert sorted(p.name for p in (run.round(1) / "clients").iterdir()) == ["clinical", "materials"]


def test_int8_sends_a_quarter_and_loses_next_to_nothing(start: Start) -> None:
    """Also the start of the second round; and the model that is kept is the one that the domains got and scored.

    Red: the global adapter is kept as it was before it was rounded.
    """
    plain, small = start(name="plain"), start("federation.wire=int8", name="small")
    replies = {
        run.path.name: [e for e in read_lines(run.events_path) if e["event"] == "client_replied"]
        for run in (plain, small)
    }
    assert not dropped(small)
    for number, is_start in ((1, True), (2, False)):
        exact, rounded = (sum(e["bytes_up"] for e in replies[n] if e["round"] == number) for n in ("plain", "small"))
        assert 0.25 < rounded / exact < 0.4  # a tiny base has few numbers a scale
        exact, rounded = (sum(e["bytes_down"] for e in replies[n] if e["round"] == number) for n in ("plain", "small"))
        assert rounded == exact if is_start else rounded < 0.4 * exact
    merged = Adapter.load(small.merged).factors
    assert factor_digest(through_wire(merged, "int8")) == factor_digest(merged)
    scores = [Evaluation.load(run.evaluation).mean_bits_per_byte("combined") for run in (plain, small)]
    base = Evaluation.load(plain.evaluation).mean_bits_per_byte("base")
    assert scores[0] is not None and scores[1] is not None and base is not None
    assert abs(scores[1] - scores[0]) < 0.02 * (base - scores[0])
