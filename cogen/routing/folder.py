"""The routed folder: a common adapter, an adapter for each domain, and `routed.json`, which names them.

    routed.json
    common/              the adapter for text of no domain, a plain PEFT folder; with gate.safetensors, the gate knows such text
    experts/<domain>/    a plain PEFT folder with gate.safetensors, what the gate knows of the domain

The gate is made of the statistics in the experts' folders when the model is opened. So an expert that is taken out leaves
nothing behind but what the common adapter learned of it, which the manifest names.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cogen.adapter import Adapter, Fingerprint
from cogen.adapter.folder import MANIFEST_NAME
from cogen.adapter.gate import GATE_NAME, GateStatistics, gate_bytes
from cogen.errors import AdapterError, ConfigError, MergeError
from cogen.files import building_folder, cannot_write, write_file
from cogen.records import Inconsistent, Name, Record
from cogen.routing.gate import Gate
from cogen.versions import versions

ROUTED_NAME = "routed.json"
COMMON = "common"
FIX = "Write it again with `cogen merge --routed`."


@dataclass(frozen=True)
class Expert:
    """An expert of a routed model.

    Args:
        name: of its folder and in answers.
        owner: the domain that trained it, as its own manifest says; empty where it says nothing.
        factors_sha256: hash of its factors.
        gate_tokens: tokens that its gate statistics were taken over.
    """

    name: Name
    owner: str
    factors_sha256: Name
    gate_tokens: Annotated[int, Field(gt=0)]


class RoutedManifest(Record):
    """`routed.json`.

    Args:
        common_sha256: hash of the common adapter's factors.
        common_learned: domains whose text the common adapter was made with, as its manifest says.
        experts: in the order in which they came.
        left: experts that were taken out; what the common adapter learned of them is still in it.
    """

    file_name = ROUTED_NAME
    error = AdapterError
    fix = FIX

    format: Literal[1] = 1
    kind: Literal["routed"] = "routed"
    base: str
    fingerprint: Fingerprint | None
    common_sha256: Name
    common_learned: tuple[str, ...]
    experts: Annotated[tuple[Expert, ...], Field(min_length=1)]
    left: tuple[str, ...] = ()
    versions: Mapping[str, str]

    def check(self) -> None:
        """Raise Inconsistent for an expert that is there twice, or a name that is no folder's."""
        names = [expert.name for expert in self.experts]
        doubled = [name for name in names if names.count(name) > 1]
        if doubled:
            raise Inconsistent("every expert once", f"{doubled[0]} twice")
        for name in names:
            if Path(name).name != name or name in (COMMON, ".", ".."):
                raise Inconsistent("names of folders", repr(name))


@dataclass(frozen=True)
class RoutedModel:
    """A routed model; adapters stay on disk until they are asked for.

    Args:
        common: folder of the common adapter.
        experts: name to folder.

    >>> routed = RoutedModel.open(Path("routed"))   # doctest: +SKIP
    >>> routed.gate.chances(mean_state(base, ids))  # doctest: +SKIP
    """

    manifest: RoutedManifest
    common: Path
    experts: Mapping[str, Path]

    @classmethod
    def open(cls, folder: Path) -> RoutedModel:
        """The model in a folder that `write_routed` made.

        Raises:
            AdapterError: a file is missing or malformed, or an adapter is another one than the manifest names.
        """
        manifest = RoutedManifest.load(folder / ROUTED_NAME)
        return cls(manifest, folder / COMMON, {e.name: folder / "experts" / e.name for e in manifest.experts})

    @cached_property
    def gate(self) -> Gate:
        """The gate over all experts, and over `common` where it has statistics of public text."""
        named = {name: self.opened[name] for name in self.experts}
        found = {name: statistics(adapter, name) for name, adapter in named.items()}
        public = self.opened[COMMON].gate
        return Gate.of(found if public is None else {**found, COMMON: public})

    @cached_property
    def opened(self) -> dict[str, Adapter]:
        """Every adapter by name, the common one as `common`; factors stay on disk.

        Raises:
            AdapterError: one of them is another adapter than the manifest names.
        """
        found = {COMMON: Adapter.open(self.common)}
        expected = {COMMON: self.manifest.common_sha256}
        for expert in self.manifest.experts:
            found[expert.name] = Adapter.open(self.experts[expert.name])
            expected[expert.name] = expert.factors_sha256
        for name, adapter in found.items():
            if adapter.digest != expected[name]:
                got, wanted = adapter.digest[:12], f"factors with sha256 {expected[name][:12]}"
                raise AdapterError("cannot use routed model", expected=wanted, got=got, where=name, fix=FIX)
        return found

    def without(self, names: Collection[str]) -> RoutedModel:
        """The model as it would be without some experts.

        Raises:
            ConfigError: no such expert, or none would be left.
        """
        unknown = sorted(set(names) - set(self.experts))
        kept = tuple(e for e in self.manifest.experts if e.name not in names)
        if unknown or not kept:
            expected = f"some of {', '.join(self.experts)}, but not all"
            fix = "Name the experts to leave aside."
            got = repr(unknown[0]) if unknown else "all of them"
            raise ConfigError("cannot leave an expert aside", expected=expected, got=got, where="--without", fix=fix)
        left = tuple(dict.fromkeys([*self.manifest.left, *(n for n in self.experts if n in names)]))
        manifest = self.manifest.model_copy(update={"experts": kept, "left": left})
        return RoutedModel(manifest, self.common, {e.name: self.experts[e.name] for e in kept})


def write_routed(
    out: Path,
    common: Path,
    experts: Mapping[str, Path],
    left: Sequence[str] = (),
    public: GateStatistics | None = None,
) -> RoutedModel:
    """Write a routed folder, whole, from adapter folders.

    Args:
        common: the adapter for text of no domain.
        public: statistics of text of no domain, by which the gate knows such text; those of `common` if it has any.
        experts: name to folder; each has gate statistics.
        left: experts that the model had and has no more.
    Raises:
        AdapterError: an adapter cannot be read, or has no gate statistics.
        MergeError: the adapters are of several bases.
    """
    adapters = {name: Adapter.open(folder) for name, folder in experts.items()}
    shared = Adapter.open(common)
    if public is not None:
        shared = replace(shared, gate=public)
    bases = {a.fingerprint for a in (shared, *adapters.values()) if a.fingerprint is not None}
    if len(bases) > 1:
        fix = "Route only adapters of one base."
        raise MergeError("cannot route", expected="adapters of one base", got=f"{len(bases)} bases", fix=fix)
    manifest = RoutedManifest(
        base=shared.base_name,
        fingerprint=shared.fingerprint,
        common_sha256=shared.digest,
        common_learned=_learned(shared),
        experts=tuple(
            Expert(name, str(a.manifest.get("domain", "")), a.digest, statistics(a, name).num_tokens)
            for name, a in adapters.items()
        ),
        left=tuple(name for name in left if name not in experts),
        versions=versions(),
    )
    try:
        manifest.check()
    except Inconsistent as error:
        fix = "Name the expert, as in NAME=FOLDER."
        raise MergeError("cannot route", expected=error.expected, got=error.got, fix=fix) from None
    found = {name: statistics(a, name) for name, a in adapters.items()}
    Gate.of(found if shared.gate is None else {**found, COMMON: shared.gate})  # fails before anything is written
    with building_folder(out) as staging:
        try:
            shutil.copytree(common, staging / COMMON)
            for name, folder in experts.items():
                shutil.copytree(folder, staging / "experts" / name)
        except OSError as error:  # of which shutil.Error is one
            raise cannot_write(out, error) from None
        if public is not None:
            write_file(staging / COMMON / GATE_NAME, gate_bytes(public))
            write_file(staging / COMMON / MANIFEST_NAME, shared.manifest_json().encode())
        manifest.write(staging / ROUTED_NAME)
    return RoutedModel.open(out)


def is_routed(folder: Path) -> bool:
    """Whether a folder holds a routed model."""
    return (folder / ROUTED_NAME).is_file()


def _learned(common: Adapter) -> tuple[str, ...]:
    """The names of the adapters that a merge or a round was made of; else the adapter's own domain."""
    parents = common.manifest.get("parents") or ()
    names = [str(p.get("name", "")) for p in parents if isinstance(p, Mapping)]
    return tuple(name for name in names if name) or tuple(filter(None, [str(common.manifest.get("domain") or "")]))


def statistics(adapter: Adapter, name: str) -> GateStatistics:
    """The gate statistics of an expert.

    Raises:
        AdapterError: it has none; `name` is named.
    """
    if adapter.gate is None:
        fix = "Train it again with --gate."
        raise AdapterError("cannot route", expected="gate statistics in every expert", got="none", where=name, fix=fix)
    return adapter.gate
