"""Runs one of Flower's own programs with the patches that it needs: `python -P -m cogen.flower.flower_process NAME ARGS`."""

from __future__ import annotations

import sys
from pathlib import Path

from cogen.flower.patches import apply_or_exit, require
from cogen.flower.stubs import take_token, write_script

ENTRIES = {"flwr": "flwr_program", "flwr-serverapp": "serverapp_program", "flwr-simulation": "simulation_program"}


def flower_command(name: str) -> list[str]:
    """The command that runs Flower's program `name`, one of ENTRIES."""
    return [sys.executable, "-P", "-m", "cogen.flower.flower_process", name]


def programs_folder(home: Path) -> Path:
    """The folder of a private FLWR_HOME with the programs that come before Flower's own in PATH."""
    return home / "programs"


def write_programs(home: Path) -> None:
    """Write the programs that a SuperLink, its SuperExec and `cogen` start; they reach the socket in `home`."""
    folder = programs_folder(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    superexec = [sys.executable, "-P", "-m", "cogen.flower.superexec_process"]
    for name, command in {**{n: flower_command(n) for n in ENTRIES}, "flower-superexec": superexec}.items():
        write_script(folder / name, command)


def main() -> None:
    """Run the program of that name."""
    name = sys.argv[1]
    apply_or_exit("api_asked_at_socket", ENTRIES[name])
    sys.argv = [name, *sys.argv[2:]]
    take_token()
    require(ENTRIES[name])[0]()


if __name__ == "__main__":
    main()
