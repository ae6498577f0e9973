"""The folder of a domain that has joined a federation.

member.toml          the federation, this domain, its corpus and base, the app that may run here
ca.pem               the only certificate authority that this node trusts
key, key.pub         the node's key pair; the private key stays here
policy.toml          what the domain allows, read again for every request
domain.toml          cleaning, held-out part and mixed-in text, read again for every request
order.key            secret from which the order of documents is drawn, and its sha256
data/                prepared text: token ids and held-out documents, of the corpora that were used last
usage.jsonl          rounds and scorings by time, and every figure that was given, for the limits by day
receipts.jsonl       everything that was sent, written before it is sent
work.jsonl           requests that were started, and suspensions; `cogen join` shows them
runs/<run id>/       optimiser states, replies, train.jsonl, models.jsonl
trainer.sock         the socket of the trainer process
flwr/                a private FLWR_HOME, with the socket of Flower's SuperNode
node.toml            what Flower tells the ClientApp
superexec.secret     for this start of Flower's SuperNode and SuperExec
logs/                output of the programs that `cogen join` runs
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cogen.adapter import Fingerprint
from cogen.config import DOMAIN_PATTERN
from cogen.errors import ConfigError, PolicyError, RunError
from cogen.files import cannot_write, write_file
from cogen.node.round_spec import RoundSpec
from cogen.records import Table, read_toml, validated

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Membership(Table):
    """`member.toml`: written when the domain has joined."""

    format: Annotated[int, Field(ge=1, le=1)] = 1
    federation: str
    domain: Annotated[str, Field(pattern=DOMAIN_PATTERN)]
    address: str
    """HOST:PORT of the coordinator's gateway."""
    data: str
    """The corpus: a file, a folder, or hf://datasets/OWNER/NAME."""
    base_name: str
    """The federation's name for the base model."""
    base: str
    """Where this machine has the base model: a folder, a hub id, or a known name."""
    weights: Digest
    tokenizer: Digest
    modules: Digest
    app_sha256: Digest
    """Of the only Flower app that may run here."""
    invite_sha256: str = ""
    """Of the invite's token, so that joining again with the same invite continues."""
    round: RoundSpec | None = None
    """What a round asks for, from the invite."""

    @property
    def trained_starts(self) -> str:
        """As in `RoundSpec`, by the invite; empty where it says nothing."""
        return self.round.trained_starts if self.round else ""

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the base model that the federation trains."""
        return Fingerprint(self.weights, self.tokenizer, self.modules)


@dataclass(frozen=True)
class JoinedDomain:
    """What a domain of a real federation has of its own.

    Args:
        prepared: its folder for prepared text.
        fingerprint: of the base that it joined with.
        order_seed: of the order of documents; None is that of the run.
    """

    prepared: Path
    fingerprint: Fingerprint
    order_seed: int | None


class NodeHome:
    """Paths in a member's folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        self.member = self.path / "member.toml"
        self.ca = self.path / "ca.pem"
        self.key = self.path / "key"
        self.public_key = self.path / "key.pub"
        self.policy = self.path / "policy.toml"
        self.settings = self.path / "domain.toml"
        self.order = self.path / "order.key"
        self.prepared = self.path / "data"
        self.usage = self.path / "usage.jsonl"
        self.receipts = self.path / "receipts.jsonl"
        self.work = self.path / "work.jsonl"
        self.enrolled = self.path / ".enrolled"
        self.logs = self.path / "logs"
        self.flower = self.path / "flwr"
        self.programs = self.path / "programs"
        self.socket = self.path / "trainer.sock"
        self.launcher_socket = self.path / "launcher.sock"
        self.superexec_secret = self.path / "superexec.secret"
        self.node_config = self.path / "node.toml"
        self.runs = self.path / "runs"
        self.lock = self.path / ".lock"

    def make(self) -> None:
        """Make the folder, readable by this user alone.

        Raises:
            RunError: the place cannot be written.
        """
        try:
            for folder in (self.path, self.logs, self.flower, self.programs, self.prepared):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def others(self) -> list[str]:
        """Names in the folder that are not its own."""
        own = {path.name for path in vars(self).values() if path != self.path}
        return sorted(path.name for path in self.path.iterdir() if path.name not in own)

    def require_apart(self, data: str) -> None:
        """Raise ConfigError if this folder lies in the corpus, where it would be read, or the corpus lies in this folder."""
        if data.startswith("hf://"):
            return
        corpus = Path(data).expanduser().resolve()
        within = self.path.relative_to(corpus).parts if self.path.is_relative_to(corpus) else (".",)
        if corpus.is_relative_to(self.path) or not any(name.startswith(".") for name in within):
            raise ConfigError(
                "cannot use this folder",
                expected="a corpus outside the member's folder, and the folder outside the corpus",
                got=str(corpus),
                where=str(self.path),
                fix="Move one of them, or name another --folder.",
            )

    def run(self, run_id: str) -> Path:
        """The folder for optimiser states and replies of one run.

        Raises:
            PolicyError: the id could name a place outside this folder.
        """
        if not RUN_ID.fullmatch(run_id):
            raise PolicyError(
                "request refused",
                expected="the id of a run: letters, digits, - and _",
                got="something else",
                fix="The coordinator and this domain need the same version of cogen.",
            )
        return self.runs / run_id

    def read_member(self) -> Membership:
        """The federation that this folder has joined.

        Raises:
            RunError: none yet.
            ConfigError: the file is not what `write_member` wrote.
        """
        if not self.member.is_file():
            raise RunError(
                "no member here",
                expected="a folder that cogen join made",
                got="no member.toml",
                where=str(self.path),
                fix="Join with an invite: cogen join INVITE --data PATH.",
            )
        return validated(Membership, read_toml(self.member), str(self.member))

    def write_member(self, member: Membership) -> None:
        """Write `member.toml`, whole or not at all."""
        import tomli_w

        write_private(self.member, tomli_w.dumps(member.model_dump(exclude_none=True)).encode())


def default_home(federation: str, domain: str) -> Path:
    """`cogen/<federation>-<domain>` in the platform's data folder."""
    import platformdirs

    name = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{federation}-{domain}")
    return Path(platformdirs.user_data_dir("cogen")) / name


def homes() -> list[NodeHome]:
    """This user's member folders at their default place."""
    import platformdirs

    return [NodeHome(p.parent) for p in sorted(Path(platformdirs.user_data_dir("cogen")).glob("*/member.toml"))]


def home_of(domain: str | None) -> NodeHome:
    """The member's folder of `domain`, or the only one that this user has at the default place.

    Raises:
        RunError: there is none, or several.
    """
    known = homes()
    fitting = [home for home in known if domain is None or home.read_member().domain == domain]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(str(home.path) for home in known) or "none"
    raise RunError(
        "cannot choose a member",
        expected="one folder" if domain is None else f"one folder of domain {domain!r}",
        got=names if fitting or not known or domain is None else f"none among {names}",
        fix="Name it with --folder.",
    )


def write_private(path: Path, content: bytes) -> None:
    """`write_file`, readable by this user alone."""
    write_file(path, content, private=True)
