"""A real federation over a bad line: what is lost on the way is sent again, and the model is the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cogen.federation.superlink import free_port
from cogen.runs import RunFolder, read_lines
from tests.cable import Cable, laid
from tests.gate import wait_until
from tests.town import config_for, town, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs 127.0.0.2, which only Linux has"),
]
PATIENCE_SECONDS = 900.0


@pytest.mark.parametrize("seed", range(3))
def test_a_line_that_delays_breaks_and_goes_dark_changes_nothing(
    seed: int, tmp_path: Path, tiny_folder: Path, simulated: RunFolder
) -> None:
    """No round is without a domain, and nothing has to be resumed.

    Red: SuperLink gives a message away once, and it is lost with the answer; Flower's node gives up at a TLS error.
    """
    config = config_for(tiny_folder, with_data=False, round_deadline_seconds=600, roster_seconds=300)
    line = Cable(free_port(None), seed, delay_seconds=0.03, bytes_between=(1000, 60_000))
    with laid(line), town(tmp_path, config, tiny_folder, line) as made:
        line.breaks = True
        running = made.start(made.coordinator, "run", made.config)
        assert wait_until(lambda: "round_started" in _events(made.run), 300.0), made.log()
        line.go_dark(35.0)  # longer than a node waits for an answer
        code = running.wait(PATIENCE_SECONDS)
        assert code == 0, (made.log(), [made.log(d, "join") for d in made.members])
        assert weights(made.run) == weights(simulated)
        assert "client_left_out" not in _events(made.run)
        assert line.num_cuts > 10 and line.num_held > 0


def _events(run: RunFolder) -> list[str]:
    return [e["event"] for e in read_lines(run.events_path)] if run.events_path.is_file() else []
