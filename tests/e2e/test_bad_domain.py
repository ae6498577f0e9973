"""One domain of three that answers with whatever it likes: the run ends, nobody else is touched, nothing of it is shown raw.

The replies of a round are in one run, a round each, of the real ServerApp in this process.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from numpy.typing import NDArray

from cogen.adapter import Adapter
from cogen.cli.narrator import Narrator
from cogen.config import load_config
from cogen.protocol.wire import PIECE, SIZES, Frame
from cogen.report.page import render
from cogen.report.reader import read_run
from cogen.runs import RunFolder, read_lines
from server.server_app import app as server_app
from tests.deployed_grid import DeployedGrid, write_members
from tests.e2e.test_rounds import events
from tests.federation_processes import DOMAINS, config_for
from tests.in_process_grid import Fault
from tests.message_content import NONCE, frame_of, header_of, rewrite

Arrays = Mapping[str, NDArray[Any]]
VERSION = "1<script>owned [/x] \x1b[2J"
MODULE = "model.layers.0.self_attn.q_proj"


def failure(reason: str) -> Fault:
    return lambda message, reply: Message(Error(code=2, reason=reason), reply_to=message)


def figures(**values: object) -> Fault:
    def fault(message: Message, reply: Message) -> Message:
        told = frame_of(reply)
        return rewrite(reply, Frame({**told.header, "figures": {**told.header["figures"], **values}}, told.arrays))

    return fault


def arrays(change: Callable[[Arrays], Arrays]) -> Fault:
    def fault(message: Message, reply: Message) -> Message:
        told = frame_of(reply)
        return rewrite(reply, Frame(told.header, change({k: v.copy() for k, v in told.arrays.items()})))

    return fault


def times(a: float, b: float) -> Fault:
    """The same update in other factors."""
    return arrays(lambda x: {k: v * np.float32(a if k.endswith(".a") else b) for k, v in x.items()})


def one_module(a: float, b: float) -> Fault:
    return arrays(
        lambda x: {
            **x,
            f"{MODULE}.a": x[f"{MODULE}.a"] * np.float32(a),
            f"{MODULE}.b": 0 * x[f"{MODULE}.b"] + np.float32(b),
        }
    )


def extra(name: str, array: NDArray[Any]) -> Fault:
    return arrays(lambda x: {**x, name: array})


def raw(header: bytes, tensors: bytes) -> Fault:
    """A frame of these bytes."""

    def fault(message: Message, reply: Message) -> Message:
        reply.content.config_records["0"][PIECE] = (
            nonce_in(reply) + SIZES.pack(len(header), len(tensors)) + header + tensors
        )
        return reply

    return fault


def nonce_in(reply: Message) -> bytes:
    found = reply.content.config_records["0"][PIECE]
    assert isinstance(found, bytes)
    return found[: len(NONCE)]


def tensors(header: str, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header.encode() + data


ONE = '"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
HUGE = '{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}'
REFUSED: dict[str, tuple[Fault, str]] = {
    "an error with markup": (failure("failed [/x] at the domain"), "failed [/x] at the domain"),
    "an error with a link": (failure("[link=http://localhost]the log[/link] [blink red]!"), "[blink red]!"),
    "an error with escapes": (failure("a\x1b[31m\x1b]0;t\x07b\u202ec"), "error 2: abc"),
    "an error of many lines": (failure("first\n" * 1000 + "last" * 1000), "lastlast"),
    "escapes in the name of an array": (
        extra("\x1b]0;OWNED\x07\x1b[2J[/x]", np.zeros(1, np.float32)),
        "1 unknown ([/x])",
    ),
    "a name of a megabyte": (extra("!" * 1_000_000, np.zeros(1, np.float32)), "1 unknown (!!!"),
    "an array without a size": (extra("zero", np.zeros((0, 1 << 40), np.float32)), "1 unknown (zero)"),
    "400 digits": (figures(seconds=10**400), "figures.seconds"),
    "5000 digits": (raw(b'{"kind":"train_reply","figures":{"num_tokens":' + b"9" * 5000 + b"}}", b""), "reply refused"),
    "seconds of 1e308": (figures(seconds=1e308), "figures.seconds"),
    "NaN seconds": (figures(seconds=float("nan")), "figures.seconds"),
    "1e308 bits": (figures(bits_per_byte_before=1e308, bits_per_byte_after=1e308), "bits_per_byte_before"),
    "2^63 bits": (figures(bits_per_byte_before=2**63), "bits_per_byte_before"),
    "bits as text": (figures(bits_per_byte_before="1_0"), "bits_per_byte_before"),
    "a NaN": (times(float("nan"), 1.0), "NaN or infinity"),
    "an update of norm 150 in one module": (one_module(1.0, 150.0), "norm up to"),
    "brackets without end": (raw(b"[" * 100_000, b""), "reply refused"),
    "nothing": (raw(b"", b""), "reply refused"),
    "a header beyond the file": (raw(b"{}", tensors("{}", length=1 << 60)), "reply refused"),
    "an array beyond the file": (raw(b"{}", tensors(HUGE, b"1234")), "reply refused"),
    "a name twice": (raw(b"{}", tensors("{" + ONE + "," + ONE + "}", b"1234")), "reply refused"),
    "two arrays in one place": (
        raw(b"{}", tensors("{" + ONE + "," + ONE.replace("x", "y") + "}", b"1234")),
        "reply refused",
    ),
}
TAKEN: dict[str, Fault] = {
    "A 1e25": times(1e25, 1e-25),
    "A 1e-30": times(1e-30, 1e30),
    "A 1e36": times(1e36, 1e-36),
    "one module of denormals": one_module(1e37, 1e-44),
    "1e-320 bits": figures(bits_per_byte_before=1e-320, bits_per_byte_after=5e-324),
}
FAULTS: dict[str, Fault] = {name: fault for name, (fault, _) in REFUSED.items()} | TAKEN
SMALL = {"tokens_per_round": 128, "round_heldout_tokens": 0, "max_heldout_tokens": 128}  # a step a round
RULES = {"min_valid_clients": 2, "max_failures": 1000, "round_deadline_seconds": 60}


@dataclass
class Liar:
    """Runs in which grid answers as it likes."""

    place: Path
    base: Path
    faults: list[Fault] = field(default_factory=list)

    def start(self, name: str, score: Fault | None = None, **rules: object) -> RunFolder:
        """One start of a run of as many rounds as there are faults; started again, it is only scored."""
        run = RunFolder(self.place / "runs" / name)
        if not run.config.exists():
            config = self.place / f"{name}.toml"
            text = config_for(self.base, with_data=True, num_rounds=len(self.faults), **RULES, **rules)
            for key, value in SMALL.items():
                text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
            config.write_text(text)
            run.create(load_config(config).to_toml())
        numbered = {1: lambda message, reply: self.faults[header_of(message)["round"] - 1](message, reply)}
        grid = DeployedGrid(run, 3, numbered, {1: {"version": VERSION}})
        if score is not None:
            grid.pull_messages = lambda ids: [  # type: ignore[method-assign]
                score(m, m) if m.metadata.src_node_id == 101 and header_of(m)["kind"] == "evaluate_reply" else m
                for m in DeployedGrid.pull_messages(grid, ids)
            ]
        server_app(grid, Context(1, 0, {}, RecordDict(), {"run": name, "config": ""}))
        return run


@pytest.fixture(scope="module")
def liar(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Liar]:
    place = tmp_path_factory.mktemp("federation")
    write_members(place, DOMAINS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COGEN_FEDERATION", str(place))
        yield Liar(place, tiny_folder)


@pytest.fixture(scope="module")
def run(liar: Liar) -> RunFolder:
    """One round for each fault."""
    liar.faults = list(FAULTS.values())
    return liar.start("lies")


def number_of(name: str) -> int:
    return list(FAULTS).index(name) + 1


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_reply_costs_its_own_place_in_the_round(run: RunFolder, name: str) -> None:
    """With a reason of one short line without control characters. Red: a check that is missing, a text that is not made safe."""
    dropped = [e for e in events(run, "client_dropped") if e["round"] == number_of(name)]
    assert [e["domain"] for e in dropped] == ["grid"], dropped
    reason = dropped[0]["reason"]
    assert REFUSED[name][1] in reason and len(reason) < 800 and reason.isprintable(), reason
    (done,) = [e for e in events(run, "round_finished") if e["round"] == number_of(name)]
    assert done["weights"].keys() == {"clinical", "materials"}


@pytest.mark.parametrize("name", TAKEN)
def test_an_odd_reply_that_is_sound_is_taken_and_the_next_round_goes_on(run: RunFolder, name: str) -> None:
    """Red: factors that overflow when they are stacked; the round after it has no start to train from."""
    (done,) = [e for e in events(run, "round_finished") if e["round"] == number_of(name)]
    assert done["num_valid"] == 3, events(run, "client_dropped")
    for f in Adapter.load(run.round(number_of(name)) / "global").factors.values():
        assert float(f.a.abs().max()) < 1e3 and float(f.b.abs().max()) < 1e3


@pytest.mark.parametrize("rules", [{"robust": "median"}, {"robust": "none", "method": "ties", "density": 0.5}])
def test_lopsided_factors_pass_through_every_rule(liar: Liar, rules: dict[str, object]) -> None:
    liar.faults = [times(1e30, 1e-30), times(1e-30, 1e30)]
    run = liar.start(str(rules.get("method", "median")), **rules)
    assert [e["num_valid"] for e in events(run, "round_finished")] == [3, 3]


CELLS = {
    "1e308 bits": {"bits_per_byte": 1e308},
    "400 digits": {"bits_per_byte": 10**400},
    "infinite bytes": {"num_bytes": float("inf")},
    "1e300 tokens": {"num_tokens": 10**300},
    "bits as text": {"bits_per_byte": "1_0"},
}


@pytest.mark.parametrize("name", CELLS)
def test_a_bad_score_costs_its_own_column(liar: Liar, run: RunFolder, name: str) -> None:
    """One cell ended every run. Red: a score without bounds."""

    def fault(message: Message, reply: Message) -> Message:
        told = frame_of(reply)
        scores = {model: {**score, **CELLS[name]} for model, score in told.header["scores"].items()}
        return rewrite(reply, Frame({**told.header, "scores": scores}))

    liar.faults = list(FAULTS.values())
    liar.start("lies", fault)
    dropped = events(run, "client_dropped")[-1]
    assert (dropped["round"], dropped["domain"]) == (0, "grid") and "scores: " in dropped["reason"]
    assert dropped["reason"].isprintable() and len(dropped["reason"]) < 800
    cells = json.loads(run.evaluation.read_text())["cells"]
    assert {cell["domain"] for cell in cells} == {"clinical", "materials"}


def test_narrator_and_report_show_it_all_as_text(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Red: markup that rich reads, an escape, a tag."""
    narrator = Narrator()
    for event in read_lines(run.events_path):
        narrator.on_event(event)
    shown, page = capsys.readouterr().err, render(read_run(run.path))
    assert "failed [/x] at the domain" in shown
    assert "<script>owned" not in page
    for text in (shown, page):
        assert not set(text) & set("\x1b\x07\u202e")
