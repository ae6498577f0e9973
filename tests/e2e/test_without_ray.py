"""Ray is needed by a simulation alone: it is hidden here from whole processes, as where it is not installed.

The programs of a real federation run without it in `test_deployment.py`.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import SEEDS
from tests.federation_processes import environment_without_ray
from tests.shell import refused

ROOT = Path(__file__).resolve().parents[2]
# Runs commands of cogen, one list of words after the other, in one process; prints their exit codes.
RUN = """
import json, sys
from cogen.cli.app import main
codes = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["cogen", *words]
    try:
        main()
        codes.append(0)
    except SystemExit as stopped:
        codes.append(stopped.code or 0)
assert "ray" not in sys.modules
print(json.dumps(codes))
"""


def run_without_ray(folder: Path, *argv: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *argv], cwd=folder, env=environment_without_ray(), capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_it_is_hidden(tmp_path: Path) -> None:
    """Red: a folder without the module that hides it."""
    code, _, err = run_without_ray(tmp_path, "-c", "import ray")
    assert code == 1 and "No module named 'ray'" in err


def test_a_simulation_says_in_one_line_what_to_install(tmp_path: Path, config_file: Path) -> None:
    """Before anything is written. Red: Flower starts, and its log has the reason."""
    refused(
        run_without_ray(tmp_path, "-m", "cogen.cli.app", "simulate", str(config_file)),
        "cannot simulate: expected Ray (pip install 'cogen-ai[simulation]'), got none.",
    )
    assert not (tmp_path / "runs").exists()


def test_everything_else_works(tmp_path: Path, config_file: Path, tiny_folder: Path) -> None:
    grid, base = str(SEEDS / "grid.jsonl"), ["--base", str(tiny_folder)]
    training = ["--tokens", "256", "--set", "train.sequence_length=64", *base]
    commands = [
        ["doctor", str(config_file), "--data", grid],
        ["data", grid, *base],
        ["train", "--data", grid, "--domain", "grid", "--out", "a", *training],
        ["merge", "a", "again=a", "--out", "both"],
        ["evaluate", "--adapter", "combined=both", "--data", f"grid={grid}", *base],
        ["invite", "grid"],
        ["nodes"],
    ]
    code, out, err = run_without_ray(tmp_path, "-c", RUN, json.dumps(commands))
    assert code == 0, err
    codes = json.loads(out.splitlines()[-1])
    assert codes[1:5] == [0, 0, 0, 0] and codes[5:] == [2, 2], err
    assert "round time" in out and "ray" not in out.split("\n")[0]


def test_only_one_module_names_it() -> None:
    """Red: another import of Ray."""
    named = set()
    for path in (p for part in ("cogen", "clients", "server") for p in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named |= {path.name for name in names if name.partition(".")[0] == "ray"}
    assert named == {"prefork_ray.py"}
