"""Invites: read back unchanged, bound to their token, used once, replaced by a later one, expired."""

from __future__ import annotations

import hashlib
import hmac
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

from cogen.adapter import Fingerprint
from cogen.config import BaseTable, Domain, Federation, RunConfig, Train
from cogen.deploy.about import split_address
from cogen.deploy.certificates import ensure_certificate
from cogen.deploy.folder import FederationFolder
from cogen.deploy.invites import Invite, find_issued, make_invite, mark_used, open_invites, read_invite
from cogen.errors import ConfigError, FederationError
from cogen.node.round_spec import round_spec

FINGERPRINT = Fingerprint("a" * 64, "b" * 64, "c" * 64)
CONFIG = RunConfig(
    base=BaseTable(precision="float32"),
    domains=(Domain(name="grid", rank=8, tokens_per_round=1024), Domain(name="clinical")),
    train=Train(sequence_length=256, batch_size=2, target_modules=("q_proj", "v_proj"), cpu_kernels="fused"),
    federation=Federation(round_deadline_seconds=90),
)
ROUND = round_spec(CONFIG, CONFIG.domains[0])
Make = Callable[..., Invite]


@pytest.fixture
def folder(tmp_path: Path) -> FederationFolder:
    made = FederationFolder(tmp_path / "fed")
    made.create()
    ensure_certificate(made, "fed.example.org")
    return made


@pytest.fixture
def make(folder: FederationFolder) -> Make:
    def of(domain: str = "grid", days: float = 7.0, with_round: bool = True) -> Invite:
        return make_invite(
            folder,
            federation="care",
            address="fed.example.org:9443",
            domain=domain,
            base="smollm2-135m",
            fingerprint=FINGERPRINT,
            app_sha256="d" * 64,
            days=days,
            round=ROUND if with_round else None,
        )

    return of


def saved(invite: Invite, tmp_path: Path) -> Path:
    path = tmp_path / "one.invite"
    path.write_text(invite.to_toml())
    return path


def test_an_invite_is_read_as_it_was_made(make: Make, folder: FederationFolder, tmp_path: Path) -> None:
    made = make()
    read = read_invite(saved(made, tmp_path))
    assert read == made
    assert read.base_fingerprint == FINGERPRINT
    assert read.ca == folder.ca.read_text()
    read.require_current()


def test_the_coordinator_keeps_no_token(make: Make, folder: FederationFolder) -> None:
    made = make()
    assert made.token not in folder.invites.read_text()
    assert find_issued(folder, made.token).domain == "grid"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("domain", "clinical"),
        ("expires", "2099-01-01T00:00:00+00:00"),
        ("address", "evil.example.org:9443"),
        ("app_sha256", "e" * 64),
        ("base", "other"),
        ("federation", "other"),
        ("fingerprint", {"weights": "e" * 64, "tokenizer": "b" * 64, "modules": "c" * 64}),
        ("token", "A" * 43),
        ("ca", "another authority"),
        ("round", {**ROUND.model_dump(), "rank": 4}),
        ("round", {**ROUND.model_dump(), "round_deadline_seconds": 9e9}),
    ],
)
def test_an_altered_invite_is_refused(make: Make, tmp_path: Path, key: str, value: object) -> None:
    values = tomllib.loads(make().to_toml())
    assert values[key] != value
    path = tmp_path / "altered.invite"
    path.write_text(tomli_w.dumps({**values, key: value}))
    with pytest.raises(FederationError, match="got one that was altered"):
        read_invite(path)


def test_what_a_round_asks_is_said_and_cannot_be_taken_away(make: Make, tmp_path: Path) -> None:
    """Red: a [round] outside of what the token binds, which the bearer of the invite could remove."""
    made = read_invite(saved(make(), tmp_path))
    assert made.round is not None
    assert made.round.train == CONFIG.train.model_copy(update={"rank": 8, "tokens_per_round": 1024})
    assert (made.round.precision, made.round.round_deadline_seconds) == ("float32", 90.0)
    values = tomllib.loads(make().to_toml())
    del values["round"]
    path = tmp_path / "less.invite"
    path.write_text(tomli_w.dumps(values))
    with pytest.raises(FederationError, match="got one that was altered"):
        read_invite(path)


def test_an_invite_of_before_there_was_a_round_is_read(make: Make, tmp_path: Path) -> None:
    """Its check is over the fields that it has. Red: a check over a round of nothing."""
    made = make(with_round=False)
    assert "round" not in made.to_toml()
    fields = {k: v for k, v in tomllib.loads(made.to_toml()).items() if k not in ("token", "check")}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert made.check == hmac.new(made.token.encode(), text.encode(), hashlib.sha256).hexdigest()
    assert read_invite(saved(made, tmp_path)).round is None


def test_what_is_no_invite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.invite"
    with pytest.raises(ConfigError, match="no such file"):
        read_invite(path)
    path.write_text('format = 2\n[base]\nname = "x"\n')
    with pytest.raises(ConfigError):
        read_invite(path)


def test_used_once(make: Make, folder: FederationFolder) -> None:
    made, other = make(), make("clinical")
    mark_used(folder, find_issued(folder, made.token))
    with pytest.raises(FederationError, match="got one that was used"):
        find_issued(folder, made.token)
    assert find_issued(folder, other.token).domain == "clinical"
    assert set(open_invites(folder)) == {"clinical"}


def test_a_later_invite_replaces_the_open_one_of_its_domain_alone(make: Make, folder: FederationFolder) -> None:
    first, other, second = make(), make("clinical"), make()
    with pytest.raises(FederationError, match="a later invite replaced"):
        find_issued(folder, first.token)
    assert find_issued(folder, second.token).domain == "grid"
    assert find_issued(folder, other.token).domain == "clinical"


def test_over_after_its_last_day(make: Make, folder: FederationFolder) -> None:
    made = make(days=-0.001)
    with pytest.raises(FederationError, match="one that ended"):
        find_issued(folder, made.token)
    with pytest.raises(FederationError, match="one that ended"):
        made.require_current()


def test_an_unknown_token_is_refused(make: Make, folder: FederationFolder) -> None:
    make()
    for token in ("A" * 43, "", "ü"):
        with pytest.raises(FederationError, match="not known here"):
            find_issued(folder, token)


def test_another_format_is_refused(folder: FederationFolder) -> None:
    folder.invites.write_text(json.dumps({"format": 9, "invites": []}))
    with pytest.raises(FederationError, match=r"cannot read invites\.json: expected format 1, got format 9"):
        open_invites(folder)


def test_addresses() -> None:
    assert split_address("fed.example.org:8443") == ("fed.example.org", 8443)
    assert split_address("fed.example.org") == ("fed.example.org", 9443)
    assert split_address("[2001:db8::1]:8443") == ("2001:db8::1", 8443)
    assert split_address("[2001:db8::1]") == ("2001:db8::1", 9443)
    for bad in ("", ":9443", "https://fed.example.org", "fed:0", "fed:65536", "fed:x", "a b:1"):
        with pytest.raises(ConfigError, match="expected HOST:PORT"):
            split_address(bad)
