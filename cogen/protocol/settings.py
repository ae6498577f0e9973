"""What a server tells a domain of a run: the settings that training needs, and nothing of where anything lies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cogen.config import Domain, RunConfig, parse_config
from cogen.errors import ConfigError

TABLES = ("base", "train", "evaluate", "data")
ROUND_KEYS = ("num_rounds", "optimizer_across_rounds")


@dataclass(frozen=True)
class Site:
    """Where a domain keeps what never leaves it.

    Args:
        data: its corpus: a file, a folder, or hf://datasets/OWNER/NAME.
        folder: of optimiser states and training logs.
    """

    domain: str
    data: str
    folder: Path


def settings_for(config: RunConfig, domain: Domain) -> str:
    """The settings of a run for one domain, as JSON, without any corpus of a domain."""
    tables = config.model_dump(mode="json", include=set(TABLES), exclude_none=True)
    tables["train"]["tokens_per_round"] = config.tokens_of(domain)
    rounds = config.federation.model_dump(mode="json", include=set(ROUND_KEYS))
    rank = config.rank_of(domain)
    return json.dumps({**tables, "federation": rounds, "rank": rank}, sort_keys=True, separators=(",", ":"))


def config_from(settings: str, site: Site) -> RunConfig:
    """The inverse of `settings_for`, at the domain: the run's settings with this site's own corpus.

    Raises:
        ConfigError: not the settings of a run, or settings that this version does not know.
    """
    try:
        values = dict(json.loads(settings))
        rank = values.pop("rank")
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            "cannot use the run's settings",
            expected="JSON with base, train, evaluate, data, federation and rank",
            got=f"{type(error).__name__}: {error}",
            fix="The coordinator and this domain need the same version of cogen.",
        ) from None
    values["domains"] = [{"name": site.domain, "data": site.data, "rank": rank}]
    return parse_config(values, "the run's settings")
