"""The names of base models: what each is, that it is fetched at its revision, and what is said where it cannot be.

A small server on this machine stands for the hub. "Red" names a change of the code under which the test fails.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from cogen.base import describe_base, load_base
from cogen.base_fetch import KNOWN_BASES, OnHub, base_folder
from cogen.errors import BaseModelError
from tests.known_models import CONFIGS, KINDS, write_tiny

DOCS = Path(__file__).parents[2] / "docs" / "training.md"
ON_HUB = {name: known for name, known in KNOWN_BASES.items() if isinstance(known, OnHub)}


def test_the_names() -> None:
    """Each model that can chat, and the same one before."""
    assert set(KNOWN_BASES) == {name + end for name in CONFIGS for end in ("", "-base")}
    assert len({known.repo_id for known in KNOWN_BASES.values()}) == len(KNOWN_BASES)
    assert {name for name, known in ON_HUB.items() if known.gated} == {
        name for name in ON_HUB if name.startswith(("gemma", "llama"))
    }
    owners = {"smollm2": "HuggingFaceTB", "qwen3": "Qwen", "gemma": "google", "llama": "meta-llama"}
    licences = {"smollm2": "apache-2.0", "qwen3": "apache-2.0", "gemma": "gemma", "llama": "llama3.2"}
    for name, known in KNOWN_BASES.items():
        owner = known.repo_id.split("/")[0]
        assert owner == owners[name.split("-")[0]]
        assert known.repo_id.lower().split("/")[1].startswith(name.removesuffix("-base"))
        if isinstance(known, OnHub):
            assert re.fullmatch("[0-9a-f]{40}", known.revision)
            assert known.license == licences[name.split("-")[0]]
    assert len({known.revision for known in ON_HUB.values()}) == len(ON_HUB)


def test_the_docs_list_them() -> None:
    rows = re.findall(r"^\| `(.+?)` \| `(.+?)` \| `(.+?)` \| (.+?)B \| (.+?) \|$", DOCS.read_text("utf-8"), re.M)
    found = {name: (chat, before, size, licence) for name, chat, before, size, licence in rows}
    assert set(found) == set(CONFIGS)
    for name, (chat, before, size, licence) in found.items():
        base = ON_HUB[f"{name}-base"]
        assert (KNOWN_BASES[name].repo_id, base.repo_id) == (chat, before)
        assert (f"{base.num_parameters / 1e9:.2f}", base.license) == (size, licence)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_real_config_has_the_parameters_that_are_told(name: str) -> None:
    """The config is built without weights; the numbers are those that the hub shows for the repositories."""
    from transformers import AutoConfig, AutoModelForCausalLM

    about = dict(CONFIGS[name])
    config = AutoConfig.for_model(about.pop("model_type"), **about)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = sum(p.numel() for p in model.parameters())
    assert type(model).__name__ == CONFIGS[name]["architectures"][0]
    numbers = {known.num_parameters for n, known in ON_HUB.items() if n.removesuffix("-base") == name}
    assert numbers == {found}


@dataclass
class Hub:
    """A hub with one model.

    Args:
        files: of the snapshot, by path.
        gated: whether it answers that a licence must be accepted.
    """

    repo_id: str
    revision: str
    files: dict[str, bytes]
    gated: bool = False
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        if self.gated:
            return 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}, b""
        if path.startswith(f"/api/models/{self.repo_id}/tree/{self.revision}"):
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            return 200, {"Content-Type": "application/json"}, json.dumps(rows).encode()
        name = path.partition(f"/{self.repo_id}/resolve/{self.revision}/")[2]
        if name in self.files:
            data = self.files[name]
            return 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": self.revision}, data
        return 404, {"X-Error-Code": "EntryNotFound"}, b""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Hub]]:
    """The list to which a test adds its hub; huggingface_hub then asks it and keeps files in a folder of the test."""
    import huggingface_hub.constants as hub

    hubs: list[Hub] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, data = hubs[0].answer(self.path.partition("?")[0])
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815 - the name that the server calls

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(hub, "ENDPOINT", address)
    monkeypatch.setattr(hub, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield hubs
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_name_is_its_model_at_its_revision(
    serve: list[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fetched once; the chat template in a file of its own comes along, folders with other formats do not.

    Red: another revision, or main; the patterns without *.jinja.
    """
    known = ON_HUB["qwen3-0.6b"]
    folder = write_tiny(KINDS["qwen3"], tmp_path / "made", template_file=True)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    more = {"original/params.json": b"{}", "onnx/config.json": b"{}", "pytorch_model.bin": b"pickle", "README.md": b"x"}
    serve.append(Hub(known.repo_id, known.revision, {**files, **more}))
    base = load_base("qwen3-0.6b", device="cpu", precision="float32")
    found = base.info.folder
    assert found.name == known.revision and {path.name for path in found.iterdir()} == set(files)
    assert base.info.fingerprint == describe_base(str(folder)).fingerprint
    assert base.tokenizer.chat_template == KINDS["qwen3"].template
    told = capsys.readouterr().err
    assert told.count("fetching qwen3-0.6b: Qwen/Qwen3-0.6B from the hub, 0.6B parameters, licence apache-2.0") == 1
    assert not [path for path in serve[0].asked if "main" in path]
    assert base_folder("qwen3-0.6b") == found and "fetching" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gemma-3-1b", "llama-3.2-1b-base", "google/gemma-3-4b-it"])
def test_a_licence_that_was_not_accepted(serve: list[Hub], name: str) -> None:
    """Red: the message about the network."""
    known = ON_HUB.get(name)
    repo_id = known.repo_id if known else name
    serve.append(Hub(repo_id, known.revision if known else "main", {}, gated=True))
    with pytest.raises(BaseModelError) as refused:
        base_folder(name)
    line = str(refused.value)
    assert line.startswith(f"cannot fetch base model {name!r}: expected an account on the hub that has accepted")
    assert f"the licence of {repo_id}" in line and "`hf auth login`" in line and "network" not in line
    assert "\n" not in line


@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-1.7b"])
def test_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(BaseModelError, match=f"cannot fetch base model '{name}': expected the model in the cache"):
        base_folder(name)


@pytest.mark.parametrize(
    ("name", "near"), [("Qwen3-0.6B", "qwen3-0.6b"), ("gemma3-270m", "gemma-3-270m"), ("smolm2-360m", "smollm2-360m")]
)
def test_a_name_that_is_nearly_known(name: str, near: str) -> None:
    with pytest.raises(BaseModelError) as refused:
        base_folder(name)
    assert f"Did you mean {near!r}?" in str(refused.value)
    assert all(known in str(refused.value) for known in KNOWN_BASES)
