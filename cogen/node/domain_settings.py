"""What a domain decides about its own text: cleaning, the held-out part, what is mixed in, the order of documents.

No request can ask for any of it. A joined domain has `domain.toml` in its folder; a simulated one follows the run's config.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cogen.config import Data, Heldout, RunConfig, Share
from cogen.errors import AlteredFile
from cogen.node.home import NodeHome, write_private
from cogen.protocol.settings import MIX_KEYS, WorkSettings
from cogen.records import Table, read_toml, validated

SECRET_BYTES = 32

TEMPLATE = """\
# What this domain decides about its own text; no coordinator can ask for anything else. The file is read again for every
# request. A key that is not here has its default, see docs/data.md and docs/settings.md.

# How documents are cleaned.
[data]
# redact = true

# The held-out part, on which models are scored: the share of documents, the tokens scored after a run and around each
# round, and the tokens of a window.
[heldout]
heldout_frac = 0.05
max_heldout_tokens = 8192
round_heldout_tokens = 2048
sequence_length = 512

# General text of this domain's choice that is mixed into its training: a file, a folder or hf://datasets/OWNER/NAME.
[mix]
# replay = "/path/to/general.jsonl"
# replay_frac = 0.05
# annealing = "/path/to/annealing.jsonl"
# annealing_frac = 0.1
# annealing_mix = 0.5
"""


class DomainHeldout(Heldout):
    """`[heldout]`: which documents are held out, and the windows in which they are scored."""

    sequence_length: Annotated[int, Field(ge=8, le=131_072)] = 512
    """Tokens of a window, at most the context of the base."""


class Mix(Table):
    """`[mix]`: text that is mixed into training, see the keys of `[train]` of the same names."""

    replay: Annotated[str, Field(min_length=1)] | None = None
    """General text to mix in: a file, a folder, or hf://datasets/OWNER/NAME."""
    replay_frac: Share = 0.05
    """Share of tokens that come from `replay`."""
    annealing: Annotated[str, Field(min_length=1)] | None = None
    """Text for the last steps of training."""
    annealing_frac: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Length of that phase, as a share of all tokens of all rounds."""
    annealing_mix: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of the tokens of that phase that come from `annealing`."""


class DomainSettings(Table):
    """`domain.toml`."""

    data: Data = Data()
    heldout: DomainHeldout = DomainHeldout()
    mix: Mix = Mix()


def read_domain_settings(path: Path) -> DomainSettings:
    """The settings in the file, paths from its own folder; a missing file is written with the defaults.

    Raises:
        ConfigError: an unknown key or a value out of bounds.
    """
    if not path.is_file():
        write_private(path, TEMPLATE.encode())
    found = validated(DomainSettings, read_toml(path), str(path))
    names = {key: getattr(found.mix, key) for key in ("replay", "annealing")}
    paths = {key: _absolute(name, path.parent) for key, name in names.items() if name is not None}
    return found.model_copy(update={"mix": found.mix.model_copy(update=paths)})


def own_settings(home: NodeHome) -> DomainSettings:
    """The settings of a joined domain, or the defaults before it has a file; nothing is written."""
    return read_domain_settings(home.settings) if home.settings.is_file() else DomainSettings()


def settings_of_run(config: RunConfig) -> DomainSettings:
    """What a simulated domain does: the tables of the run's config, with windows as long as the blocks of training."""
    heldout: dict[str, Any] = {key: getattr(config.evaluate, key) for key in Heldout.model_fields}
    heldout["sequence_length"] = config.train.sequence_length
    mix = {key: getattr(config.train, key) for key in MIX_KEYS}
    return DomainSettings(data=config.data, heldout=DomainHeldout(**heldout), mix=Mix(**mix))


def private_seed(path: Path, run: str, settings: WorkSettings) -> int:
    """The seed of the order of documents in a run, from a secret of this domain in `path`, which is made if missing.

    Runs or settings that differ in anything have orders that have nothing in common. So no two replies can be compared
    whose rounds are equal but for one step or one block.

    Raises:
        AlteredFile: the secret is not as it was written; one of zeros, as after a crash of the disk, would be no secret.
    """
    if not path.is_file():
        made = secrets.token_bytes(SECRET_BYTES)
        write_private(path, made + hashlib.sha256(made).digest())
    content = path.read_bytes()
    secret = content[:SECRET_BYTES]
    if content[SECRET_BYTES:] != hashlib.sha256(secret).digest():
        raise AlteredFile(
            "cannot order the documents",
            expected=f"a secret of {SECRET_BYTES} bytes and its sha256",
            got="something else",
            where=str(path),
            fix="Restore the file, or remove it: runs that are going on then have to be started again.",
        )
    about = json.dumps([run, settings.model_dump(mode="json")], sort_keys=True).encode()
    return int.from_bytes(hashlib.sha256(secret + about).digest()[:4], "big") >> 1


def _absolute(name: str, folder: Path) -> str:
    return name if name.startswith("hf://") else str((folder / Path(name).expanduser()).resolve())
