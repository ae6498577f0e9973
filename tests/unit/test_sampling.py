"""Which clients are sampled in a round, and the effect of a node's own limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict

from cogen.config import RunConfig, load_config
from cogen.errors import MessageError, ReplyError
from cogen.protocol.messages import HelloReply, unpack
from cogen.protocol.wire import Frame
from server.client_registry import client_of
from server.requests import choose, draw, sample_size
from server.transport import reason_of
from tests.in_process_grid import InProcessGrid

NAMES = [f"d{i}" for i in range(8)]


def config(folder: Path, federation: str = "", domains: int = 8) -> RunConfig:
    path = folder / "run.toml"
    path.write_text("".join(f'[[domains]]\nname = "{n}"\n' for n in NAMES[:domains]) + f"[federation]\n{federation}")
    return load_config(path, ["train.tokens_per_round=1000", "train.sequence_length=64"])


def test_a_draw_depends_on_seed_and_round_alone() -> None:
    """Red: the order of the domains, or the global random state, decides."""
    orders = [draw(NAMES, 7, n) for n in range(1, 6)]
    assert orders == [draw(NAMES[::-1], 7, n) for n in range(1, 6)]
    assert len({tuple(o) for o in orders}) == 5 and all(sorted(o) == NAMES for o in orders)
    assert draw(NAMES, 8, 1) != orders[0]


def test_a_sample_is_its_share_and_never_too_few(tmp_path: Path) -> None:
    assert [
        sample_size(config(tmp_path, f"min_valid_clients = 2\nfraction_train = {f}")) for f in (1.0, 0.5, 0.3, 0.01)
    ] == [
        8,
        4,
        3,
        2,
    ]


def hello(limits: dict[str, Any]) -> HelloReply:
    """As it comes from a node."""
    return unpack(Frame({"kind": "hello_reply", "domain": "d0", **limits}), HelloReply)


def test_who_is_not_there_is_replaced_in_order() -> None:
    """Red: the replacement is asked although everybody of the sample is there. Red: nobody replaces."""
    assert choose(NAMES, 3, NAMES) == (["d0", "d1", "d2"], [])
    assert choose(NAMES, 3, {"d0", "d2", "d5", "d7"}) == (["d0", "d2", "d5"], ["d1"])
    assert choose(NAMES, 3, {"d6"}) == (["d6"], ["d0", "d1", "d2"])


@pytest.mark.parametrize(
    ("about", "rank", "tokens"),
    [
        ({}, 16, 1000),
        ({"max_rank": 0, "max_tokens_per_round": 0}, 16, 1000),
        ({"max_rank": 4, "max_tokens_per_round": 1024}, 4, 1000),
        ({"max_rank": 99, "max_tokens_per_round": 1023}, 16, 960),
        ({"max_tokens_per_round": 64}, 16, 64),
    ],
)
def test_limits_hold_in_whole_blocks(tmp_path: Path, about: dict[str, Any], rank: int, tokens: int) -> None:
    """1,000 tokens are trained as 1,024: a limit of 1,023 leaves 960. Red: 0 is a limit."""
    settings = config(tmp_path)
    client = client_of(settings, settings.domains[0], 5, hello(about))
    assert (client.rank, client.tokens_per_round, client.node, client.evaluates) == (rank, tokens, 5, True)
    assert (client.asked.rank, client.asked.tokens_per_round) == (rank, tokens)


@pytest.mark.parametrize(
    ("about", "line"),
    [
        ({"max_rank": -1}, "max_rank: Input should be greater than or equal to 0, got -1"),
        ({"max_rank": True}, "max_rank: Input should be a valid integer, got True"),
        ({"max_tokens_per_round": "many"}, "got 'many'"),
        ({"max_tokens_per_round": 63}, "at least one block, 64 tokens, got 63 tokens"),
    ],
)
def test_limits_that_are_none_are_refused(tmp_path: Path, about: dict[str, Any], line: str) -> None:
    settings = config(tmp_path)
    with pytest.raises((ReplyError, MessageError), match=line):
        client_of(settings, settings.domains[1], 5, hello(about))


def test_flowers_codes_become_words() -> None:
    """A dead node's code is told plainly; a client's own reason is one line, short and printable."""
    InProcessGrid(1)  # gives Flower's messages their sender
    message = Message(RecordDict(), message_type="train", dst_node_id=5)

    def said(code: int, reason: str) -> str:
        return reason_of(Message(Error(code=code, reason=reason), reply_to=message))

    assert said(5, "Error: Node Unavailable - ...") == "error 5: its node is gone: no sign of life from it"
    assert said(2, "Traceback\n  File x\nno such path\x1b[31m\n") == "error 2: no such path"
    assert said(2, "") == "error 2: no reason given"
    assert len(said(2, "x" * 5000)) < 320
