"""The coordinator's folder: files that a federation keeps between commands. Only their owner can read them.

config.toml            resolved settings
ca.pem ca.key          the federation's certificate authority, for the public address
server.pem server.key  the gateway's certificate
link/                  the same four files for Flower's SuperLink, which listens at a socket of flwr/
superlink.db           Flower's nodes and messages
invites.json           hash of the token, domain and expiry date of every invite
members.json           the domains that have joined
serve.json             where `cogen serve` listens; the file exists while it runs
about.json             the federation's name and public address
runs/<name>/           ordinary run folders
logs/                  logs of Flower's programs and of the gateway
flwr/                  a private FLWR_HOME, with SuperLink's socket and the programs that reach it
superexec.secret       for this start of Flower's SuperLink and SuperExec
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from cogen.errors import FederationError
from cogen.files import cannot_write, holding, write_file
from cogen.runs import RunFolder

DEFAULT = "federation"


class FederationFolder:
    """The paths and locks of one federation."""

    def __init__(self, path: str | Path = DEFAULT) -> None:
        self.path = Path(path).resolve()
        self.config = self.path / "config.toml"
        self.ca, self.ca_key = self.path / "ca.pem", self.path / "ca.key"
        self.server, self.server_key = self.path / "server.pem", self.path / "server.key"
        self.link = self.path / "link"
        self.database = self.path / "superlink.db"
        self.invites = self.path / "invites.json"
        self.members = self.path / "members.json"
        self.serving = self.path / "serve.json"
        self.about = self.path / "about.json"
        self.logs = self.path / "logs"
        self.flwr_home = self.path / "flwr"
        self.superexec_secret = self.path / "superexec.secret"

    def create(self) -> None:
        """Make the folder if it is missing; only its owner can list and read it.

        Raises:
            RunError: the folder cannot be written.
        """
        try:
            for folder in (self.path, self.link, self.logs, self.flwr_home, self.path / "runs"):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def require(self) -> None:
        """Raise FederationError unless `cogen serve` has made the folder."""
        if not self.config.is_file():
            raise FederationError(
                "no federation here",
                expected="a folder that `cogen serve` has made",
                got="none" if not self.path.exists() else "another folder",
                where=str(self.path),
                fix="Start `cogen serve CONFIG --public-address HOST:PORT` first, or name its folder with --folder.",
            )

    def lock(self) -> AbstractContextManager[int]:
        """Hold the folder for one `cogen serve` and its child processes; those of a killed one get time to end.

        Raises:
            FederationError: another `cogen serve` holds it.
        """
        return holding(self.path / ".serve.lock", self._in_use, 12.0)

    def is_served(self) -> bool:
        """Whether a `cogen serve` holds the folder."""
        try:
            with holding(self.path / ".serve.lock", self._in_use):
                return False
        except FederationError:
            return True

    def run_lock(self) -> AbstractContextManager[int]:
        """Hold the federation for one `cogen run`.

        Raises:
            FederationError: another `cogen run` holds it.
        """
        return holding(self.path / ".run.lock", lambda: self._in_use("run"), 2.0)

    def _in_use(self, what: str = "serve") -> FederationError:
        return FederationError(
            f"cannot {what}",
            expected=f"no other cogen {what} on this folder",
            got="one that is running",
            where=str(self.path),
            fix="Stop it first, or name another folder with --folder.",
        )

    def run(self, name: str) -> RunFolder:
        """The run folder `name`."""
        return RunFolder(self.path / "runs" / name)

    def write(self, path: Path, content: str) -> None:
        """Replace one of the files, atomically; only its owner can read it."""
        write_file(path, content.encode(), private=True)


def locked(path: Path) -> AbstractContextManager[int]:
    """Hold the file `path` for this thread while it is read, changed and written back; other threads wait.

    Raises:
        RunError: the folder cannot be written.
    """
    return holding(path.parent / f".{path.name}.lock")


def utc_now() -> str:
    """The time as the files of the folder write it: ISO 8601, UTC, whole seconds."""
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds")
