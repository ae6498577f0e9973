"""Runs and nodes of a running SuperLink, through Flower's own `flwr` command."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cogen.errors import FederationError
from cogen.flower.flower_process import programs_folder
from cogen.flower.superlink import CONNECTION, flower_environment

TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class SuperLinkClient:
    """The SuperLink whose address a private FLWR_HOME holds.

    Args:
        home: the FLWR_HOME that `connect` wrote.
        logs: the folder that an error points to.
    """

    home: Path
    logs: Path

    def submit(self, app: Path, run: str, simulation: str = "") -> str:
        """Submit the Flower app for the run `run`; returns Flower's run id.

        Args:
            simulation: settings of a simulated federation, as `flwr run --federation-config` takes them.
        """
        args = ["run", str(app), CONNECTION, "--run-config", f'run="{run}"']
        answer = self._flwr([*args, *(["--federation-config", simulation] if simulation else [])])
        run_id = answer.get("run-id")
        if not run_id:
            raise self._failed("a run id from Flower", json.dumps(answer)[:200])
        return str(run_id)

    def status(self, run_id: str) -> str:
        """Flower's word for the run's state: `running`, `finished:completed`, `finished:failed`, ..."""
        runs = self._flwr(["list", CONNECTION, "--run-id", run_id]).get("runs")
        return str(runs[0].get("status", "unknown")) if isinstance(runs, list) and runs else "unknown"

    def unfinished(self) -> list[str]:
        """Ids of the runs that have not ended."""
        runs = self._flwr(["list", CONNECTION]).get("runs")
        rows = runs if isinstance(runs, list) else []
        return [str(r["run-id"]) for r in rows if not str(r["status"]).startswith("finished")]

    def stop(self, run_id: str) -> None:
        """Stop a run."""
        self._flwr(["stop", run_id, CONNECTION])

    def register(self, public_key: str) -> int:
        """Register the node with this public key (an OpenSSH line); returns Flower's id of the node.

        Raises:
            FederationError: Flower refuses the key, for example because it was registered before.
        """
        with tempfile.TemporaryDirectory(prefix="cogen-key-") as scratch:
            path = Path(scratch) / "key.pub"
            path.write_text(public_key, "utf-8")
            answer = self._flwr(["supernode", "register", str(path), CONNECTION])
        node_id = answer.get("node-id")
        if not node_id:
            raise self._failed("a node id from Flower", json.dumps(answer)[:200])
        return int(str(node_id))

    def unregister(self, node_id: int) -> None:
        """Refuse a node from now on."""
        self._flwr(["supernode", "unregister", str(node_id), CONNECTION])

    def nodes(self) -> dict[int, str]:
        """Each node's id and state: `registered`, `online`, `offline` or `unregistered`."""
        nodes = self._flwr(["supernode", "list", CONNECTION]).get("nodes")
        return {int(n["node-id"]): str(n["status"]) for n in nodes} if isinstance(nodes, list) else {}

    def _flwr(self, args: list[str]) -> dict[str, object]:
        try:
            done = subprocess.run(
                [str(programs_folder(self.home) / "flwr"), *args, "--format", "json"],
                env=flower_environment(self.home),
                cwd=self.home,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
                timeout=TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise self._failed(f"an answer to flwr {args[0]}", f"none in {TIMEOUT_SECONDS:g} s") from None
        text = done.stdout[done.stdout.find("{") :]
        try:
            found: dict[str, object] = json.loads(text)
        except ValueError:
            last = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
            raise self._failed(f"an answer to flwr {args[0]}", last[-1]) from None
        if found.get("success") is False:
            raise self._failed(f"flwr {args[0]} to succeed", str(found.get("error-message", text))[:300])
        return found

    def _failed(self, expected: str, got: str) -> FederationError:
        return FederationError(
            "Flower failed", expected=expected, got=got, where=str(self.logs), fix="See the logs, then try again."
        )
