"""What the tests of a real federation compare it with."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogen.config import load_config
from cogen.runs import RunFolder
from tests.federation_processes import config_for


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> RunFolder:
    """The rounds of `config_for`, in this process."""
    from flwr.app import Context, RecordDict

    from server.server_app import app as server_app
    from tests.in_process_grid import InProcessGrid

    place = tmp_path_factory.mktemp("simulated")
    (place / "care.toml").write_text(config_for(tiny_folder, with_data=True))
    run = RunFolder(place / "run")
    run.create(load_config(place / "care.toml").to_toml())
    server_app(InProcessGrid(3), Context(1, 0, {}, RecordDict(), {"run": str(run.path), "config": ""}))
    return run
