"""How the blocks of a step are shared among processes, and process groups that cannot work.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import pytest
import torch

from cogen.base import default_device
from cogen.distributed import ProcessRank, process_rank
from cogen.errors import ConfigError
from cogen.train.distributed import ProcessGroup, join_process_group


@pytest.fixture
def as_third_process(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The third of four processes, the second on its machine."""
    for key, value in {"RANK": "2", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(key, value)
    return monkeypatch


@pytest.mark.parametrize(("num_blocks", "count"), [(4, 2), (7, 3), (3, 3), (1, 4), (64, 8)])
def test_every_block_is_of_one_process(num_blocks: int, count: int) -> None:
    """Red: num_blocks // count blocks each."""
    shares = [ProcessGroup(i, count).share(10, num_blocks) for i in range(count)]
    blocks = [first + k for first, num in shares for k in range(num)]
    assert blocks == list(range(10, 10 + num_blocks))
    sizes = [num for _, num in shares]
    assert max(sizes) - min(sizes) <= 1


def test_alone_nothing_changes() -> None:
    """Red: the gradients copied, or None made zero."""
    alone = ProcessGroup()
    parameters = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))]
    parameters[0].grad = grad = torch.ones(2)
    alone.sum_gradients(parameters)
    assert parameters[0].grad is grad and parameters[1].grad is None
    assert alone.share(5, 3) == (5, 3) and alone.is_main
    assert (alone.sum(0.1), alone.from_main(lambda: "asked")) == (0.1, "asked")
    alone.require_same("anything")
    with alone.main_first():
        pass


def test_a_launcher_is_known_by_all_of_its_variables(as_third_process: pytest.MonkeyPatch) -> None:
    """A scheduler that sets WORLD_SIZE alone starts single processes. Red: WORLD_SIZE alone is read."""
    assert process_rank() == ProcessRank(2, 1, 4)
    as_third_process.delenv("LOCAL_RANK")
    assert process_rank() == ProcessRank()


def test_each_process_has_its_own_device(as_third_process: pytest.MonkeyPatch) -> None:
    """Red: "cuda" for all of them."""
    as_third_process.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device() == "cuda:1"
    as_third_process.delenv("RANK")
    assert default_device() == "cuda"
    as_third_process.setattr(torch.cuda, "is_available", lambda: False)
    assert default_device() == "cpu"


def test_launches_that_cannot_work(as_third_process: pytest.MonkeyPatch) -> None:
    """Refused before anybody waits for the others."""
    with pytest.raises(ConfigError, match=r"expected 4 or more blocks of a step, got train.batch_size = 3") as few:
        join_process_group(3)
    as_third_process.setattr(torch.cuda, "is_available", lambda: True)
    as_third_process.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"expected 2 GPUs or more on this machine, got 1 \(4 processes\)") as gpus:
        join_process_group(4)
    assert all("\n" not in str(error.value) for error in (few, gpus))
