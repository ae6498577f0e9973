"""A real federation over a bad network: lost messages are sent again, and the model is the same."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from cogen.runs import RunFolder, read_lines
from tests.faulty_proxy import FaultyProxy, running_proxy
from tests.federation_processes import DOMAINS, config_for, running_federation, weights
from tests.namespaces import networks
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs 127.0.0.2, which only Linux has"),
]
PATIENCE_SECONDS = 900.0


@pytest.mark.parametrize(("seed", "dark_seconds"), [(0, 20.0), (1, 40.0), (2, 80.0)])
def test_a_line_that_delays_breaks_and_goes_dark_changes_nothing(
    seed: int, dark_seconds: float, tmp_path: Path, tiny_folder: Path, simulated: RunFolder
) -> None:
    """No round is without a domain, and nothing has to be resumed.

    Flower gives a node up 60 s after its last heartbeat; then it is asked again. Red: SuperLink gives a message away
    once, and it is lost with the answer; Flower's node gives up when a handshake breaks.
    """
    config = config_for(tiny_folder, with_data=False, round_deadline_seconds=600, connect_wait_seconds=300)
    line = FaultyProxy(free_port(), seed, delay_seconds=0.03, bytes_between=(1000, 1_000_000))  # the app takes 80 kB
    with running_proxy(line), running_federation(tmp_path, config, tiny_folder, line) as made:
        line.breaks = True
        running = made.start(made.coordinator, "run", made.config)
        assert wait_until(lambda: "round_started" in _events(made.run), 300.0), made.log()
        line.go_dark(dark_seconds)
        code = running.wait(PATIENCE_SECONDS)
        assert code == 0, (made.log(), [made.log(d, "join") for d in made.members])
        assert weights(made.run) == weights(simulated)
        assert "client_dropped" not in _events(made.run)
        assert "client_retried" in _events(made.run) or dark_seconds <= 60
        assert line.num_cuts >= 5 and line.num_held > 0


@pytest.mark.parametrize(("delay", "jitter", "loss"), [(0.0, 0.0, 0.0), (0.08, 0.02, 0.02)])
def test_four_networks_far_apart_change_nothing(
    delay: float, jitter: float, loss: float, tmp_path: Path, tiny_folder: Path, simulated: RunFolder
) -> None:
    """Each participant alone in its network, 80 +- 20 ms each way and 2% of the frames lost in the second case."""
    config = config_for(tiny_folder, with_data=False, round_deadline_seconds=600, connect_wait_seconds=300)
    with ExitStack() as stack:
        try:
            far = stack.enter_context(networks(["coordinator", *DOMAINS], delay, jitter, loss))
        except OSError as error:
            pytest.skip(f"no network namespaces here: {error}")
        made = stack.enter_context(running_federation(tmp_path, config, tiny_folder, far))
        assert made.rounds(patience_seconds=PATIENCE_SECONDS) == 0, made.log()
        assert weights(made.run) == weights(simulated)
        assert "client_dropped" not in _events(made.run)
        assert all(wire.num_frames > 100 for wire in far.wires)
        assert (sum(wire.num_lost for wire in far.wires) > 0) == (loss > 0)


def _events(run: RunFolder) -> list[str]:
    return [e["event"] for e in read_lines(run.events_path)] if run.events_path.is_file() else []
