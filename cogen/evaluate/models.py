"""The models in a run or in adapter folders: the base, and each adapter under the name of its row."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cogen.adapter import Adapter
from cogen.config import load_config
from cogen.errors import AdapterError, ConfigError, RunError
from cogen.evaluate.matrix import BASE, COMBINED, EXPERT_PREFIX, ROUTED
from cogen.routing.folder import COMMON, ROUTED_NAME, RoutedModel, is_routed
from cogen.runs import RunFolder

if TYPE_CHECKING:
    from cogen.base import Base
    from cogen.routing.gate import Choice

MANIFEST = "adapter_config.json"


@dataclass(frozen=True)
class ModelSet:
    """A base, and the adapters that can be attached to it.

    Args:
        base: name or folder of the base.
        precision: precision of the base in the run.
        adapters: row name to folder; the first one is the default.
        routed: the routed model, whose adapters are rows too; its own row is `routed`, which is then the default.
    """

    base: str
    precision: str
    adapters: Mapping[str, Path]
    routed: RoutedModel | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All row names; the base is last."""
        return (*([] if self.routed is None else [ROUTED]), *self.adapters, BASE)

    def require(self, name: str, without: Collection[str] = ()) -> None:
        """Check that a row can answer.

        Args:
            without: experts that the routed model leaves aside.
        Raises:
            ConfigError: no row has this name; or an expert is to be left aside where there is none of this name.
            AdapterError: an adapter cannot be read.
        """
        if without and self.routed is None:
            fix = "Name a folder of `cogen merge --routed`."
            raise ConfigError("cannot leave experts aside", expected="a routed model", got="none", fix=fix)
        if self.routed is not None and name == ROUTED:
            _ = (self.routed.without(without) if without else self.routed).gate
        else:
            self.load(name)

    def choose(self, base: Base, tokens: Sequence[int], without: Collection[str] = ()) -> tuple[str, Choice]:
        """The row that the gate of the routed model chooses for a text, and how sure it is.

        Args:
            tokens, without: as in `cogen.routing.choose`.
        """
        from cogen.routing.choose import choose

        assert self.routed is not None
        choice = choose(base, self.routed, tokens, without)
        return (COMMON if choice.expert == COMMON else EXPERT_PREFIX + choice.expert), choice

    def load(self, name: str) -> Adapter | None:
        """The adapter of a row; None for the base alone.

        Raises:
            ConfigError: no row has this name.
        """
        if name == BASE:
            return None
        if name not in self.adapters:
            raise ConfigError(
                "no such model", expected=f"one of {', '.join(self.names)}", got=repr(name), fix="Name one of them."
            )
        return Adapter.load(self.adapters[name])


def find_models(source: Path | None, named: Mapping[str, str], base: str | None) -> ModelSet:
    """The models in `source`, and the adapters in `named`.

    Args:
        source: a run folder or an adapter folder. None is the newest run in `runs/` if neither `named` nor `base` is
            given, and nothing otherwise.
        named: row name to adapter folder.
        base: used instead of the base that the folders name.
    Raises:
        RunError: there is no run, or the run has no adapter yet.
        AdapterError: `source` is neither a run nor an adapter.
        ConfigError: the adapters have different bases.
    """
    if source is None and not named and base is None:
        source = newest_run(Path("runs"))
    found = {name: Path(folder) for name, folder in named.items()}
    precision, routed = "auto", None
    bases = [Adapter.load(folder).base_name for folder in found.values()]
    if source is not None:
        if (source / "config.toml").is_file():
            run = RunFolder(source)
            config = load_config(run.config)
            found |= _of_run(run, [d.name for d in config.domains])
            routed = RoutedModel.open(run.routed) if is_routed(run.routed) else None
            found |= {} if routed is None else {COMMON: routed.common}
            precision = config.base.precision
            bases.append(config.base.name)
        elif is_routed(source):
            routed = RoutedModel.open(source)
            found |= {COMMON: routed.common, **{EXPERT_PREFIX + n: path for n, path in routed.experts.items()}}
            bases.append(routed.manifest.base)
        elif (source / MANIFEST).is_file():
            found[source.resolve().name] = source
            bases.append(Adapter.load(source).base_name)
        else:
            raise AdapterError(
                "nothing to talk to",
                expected=f"a run folder (config.toml), an adapter folder ({MANIFEST}) or a routed one ({ROUTED_NAME})",
                got="none of them",
                where=str(source),
                fix="Name a run of `cogen simulate` or an adapter of `cogen train`.",
            )
    return ModelSet(base or _only(bases), precision, found, routed)


def newest_run(folder: Path) -> Path:
    """The run in `folder` that changed last.

    Raises:
        RunError: the folder has no run.
    """
    runs = [path.parent for path in folder.glob("*/config.toml")]
    if not runs:
        raise RunError(
            "no run found",
            expected="a run folder",
            got="none",
            where=str(folder),
            fix="Name a run or an adapter, or start a run with `cogen simulate`.",
        )
    return max(runs, key=lambda run: max(path.stat().st_mtime for path in run.iterdir()))


def _of_run(run: RunFolder, domains: Sequence[str]) -> dict[str, Path]:
    """Rows of a run: combined first, then its experts."""
    rows = {COMBINED: run.merged, **{EXPERT_PREFIX + name: run.expert(name) for name in domains}}
    found = {name: path for name, path in rows.items() if (path / MANIFEST).is_file()}
    if not found:
        raise RunError(
            "nothing to talk to",
            expected="a combined adapter or experts",
            got="none yet",
            where=str(run.path),
            fix="Wait until the run has ended, or continue it with --resume.",
        )
    return found


def _only(bases: Sequence[str]) -> str:
    several = sorted(set(bases))
    if len(several) > 1:
        raise ConfigError(
            "cannot use these adapters together",
            expected="adapters of one base",
            got=" and ".join(several),
            fix="Name only adapters of one base, or set the base with --base.",
        )
    return several[0]
