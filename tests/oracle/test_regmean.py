"""RegMean compared with its formula on full matrices, and Gram statistics with the inputs of the layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cogen.adapter import Adapter, Factors, Gram
from cogen.adapter.grams import GRAM_NAME
from cogen.base import Base
from cogen.config import Train
from cogen.data.pack import train_batch
from cogen.errors import AdapterError, MergeError
from cogen.merge import merge_adapters, regmean
from cogen.train.gram import GramEstimator, collect_grams
from cogen.train.lora import init_factors
from cogen.train.mixture import make_stream, read_mixture
from tests.shell import Cogen, refused

SEEDS = Path(__file__).parents[2] / "seeds"


@pytest.fixture(autouse=True, scope="module")
def _seeded() -> None:
    torch.manual_seed(0)


def part(seed: int, d_out: int = 7, d_in: int = 11, rank: int = 2) -> Factors:
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((rank, d_in), (d_out, rank)))
    directions = torch.randn(4, d_in, generator=draw, dtype=torch.float64)
    return Factors(a, b, 1.0 + seed, Gram(directions, 0.1 + 0.05 * seed))


def dense(gram: Gram | None) -> Tensor:
    assert gram is not None
    return gram.directions.T @ gram.directions + gram.ridge * torch.eye(gram.directions.shape[1], dtype=torch.float64)


def test_it_is_the_formula_and_the_minimum() -> None:
    """Red: the ridge is dropped of A G. Red: sqrt(w) in place of w for the rows. Red: rho of the last part alone."""
    parts, weights = [part(i) for i in range(3)], [0.2, 0.3, 0.5]
    whole = sum((w * dense(f.gram) for w, f in zip(weights, parts, strict=True)), torch.zeros(()))
    right = sum((w * f.delta() @ dense(f.gram) for w, f in zip(weights, parts, strict=True)), torch.zeros(()))
    found = regmean(parts, weights).delta()
    torch.testing.assert_close(found, right @ torch.linalg.inv(whole), rtol=1e-9, atol=1e-9)

    def objective(delta: Tensor) -> float:
        terms = []
        for w, f in zip(weights, parts, strict=True):
            off = delta - f.delta()
            terms.append(w * float((off @ dense(f.gram) * off).sum()))
        return sum(terms)

    draw = torch.Generator().manual_seed(9)
    for _ in range(10):
        assert objective(found) < objective(found + 0.01 * torch.randn(7, 11, generator=draw, dtype=torch.float64))


def test_where_all_see_the_same_it_is_the_mean() -> None:
    """Red: A G with the transpose of C."""
    parts = [Factors(f.a, f.b, f.scaling, part(0).gram) for f in (part(1), part(2), part(3))]
    mean = sum((f.delta() for f in parts), torch.zeros(())) / 3
    torch.testing.assert_close(regmean(parts, [1 / 3] * 3).delta(), mean, rtol=1e-9, atol=1e-9)


def test_an_estimator_wide_enough_is_exact_and_keeps_the_trace() -> None:
    """Red: the ridge is not taken off the directions. Red: sums are not divided by the number of rows."""
    x = torch.randn(300, 12) @ torch.randn(12, 12)
    estimator = GramEstimator(12, 8, seed=1)
    for rows in (x[:100], x[100:].reshape(2, 100, 12)):
        estimator.add(rows)
    exact = (x.T @ x / 300).double()
    values, vectors = torch.linalg.eigh(exact)
    found = estimator.gram()
    assert found.directions.shape == (8, 12)
    approximate = found.directions.double().T @ found.directions.double() + found.ridge * torch.eye(12)
    assert float(approximate.trace()) == pytest.approx(float(exact.trace()), rel=1e-4)
    assert found.ridge == pytest.approx(float(values[:4].mean()), rel=1e-3)
    leading = vectors[:, 4:] @ torch.diag(values[4:]) @ vectors[:, 4:].T
    rest = found.ridge * vectors[:, :4] @ vectors[:, :4].T
    torch.testing.assert_close(approximate, leading + rest, rtol=1e-3, atol=1e-3)


def test_a_narrow_estimator_finds_the_directions_that_matter() -> None:
    """Three strong directions of 200 under noise. Red: Omega is not random (unit vectors)."""
    strong = torch.linalg.qr(torch.randn(200, 3)).Q
    x = 5.0 * torch.randn(4000, 3) @ strong.T + 0.1 * torch.randn(4000, 200)
    estimator = GramEstimator(200, 4, seed=2)
    estimator.add(x)
    found = estimator.gram()
    kept = found.directions @ strong
    assert float(kept.square().sum() / found.directions.square().sum()) > 0.99
    assert 0.01 < found.ridge < 0.0125  # the approximation lies below the matrix, so a little is left over


def test_the_statistics_are_of_what_a_layer_sees(tiny: Base) -> None:
    """The input of layer 0 follows from the embedding alone. Red: the EOS-shifted targets are fed. Red: one block."""
    settings = Train(sequence_length=32, rank=2)
    stream = make_stream(read_mixture(tiny, {"grid": SEEDS / "grid.jsonl"}, settings, 0.15), settings, 3)
    seen: list[int] = []
    grams = collect_grams(tiny, init_factors(tiny.info.modules, 2, 2.0, 0), stream, 3, on_block=seen.append)
    assert seen == [1, 2, 3] and grams.keys() == tiny.info.modules.keys()
    layer = tiny.model.get_decoder().layers[0]
    tokens = torch.cat([torch.from_numpy(train_batch(stream, i, 1).tokens) for i in range(3)])
    with torch.no_grad():
        x = layer.input_layernorm(tiny.model.get_input_embeddings()(tokens)).double()
    exact = x.T @ x / len(x)
    found = grams["model.layers.0.self_attn.q_proj"]
    directions = found.directions.double()
    approximate = directions.T @ directions + found.ridge * torch.eye(len(exact))
    torch.testing.assert_close(approximate, exact, rtol=1e-3, atol=1e-3 * float(exact.diagonal().max()))
    assert not any(
        "hook" in type(h).__name__.lower() for m in tiny.model.modules() for h in m._forward_pre_hooks.values()
    )


def test_trained_with_gram_and_merged(cogen: Cogen, tiny_folder: Path) -> None:
    """From the command line; what is changed or missing is refused."""
    for domain in ("grid", "clinical"):
        code, _, err = cogen(
            "train", "--base", tiny_folder, "--data", SEEDS / f"{domain}.jsonl", "--domain", domain, "--out", domain,
            "--tokens", 256, "--set", "train.sequence_length=64", "--set", "train.learning_rate=0.01", "--gram",
        )  # fmt: skip
        assert code == 0, err
    manifest = json.loads(Path("grid/cogen.json").read_text())
    assert manifest["gram_tokens"] == 256 and len(manifest["gram_sha256"]) == 64
    code, _, err = cogen("merge", "grid", "clinical", "--method", "regmean", "--out", "m")
    assert code == 0, err
    adapters = [Adapter.open(name) for name in ("grid", "clinical")]
    called = merge_adapters(adapters, method="regmean").adapter
    assert called.digest == Adapter.load("m").digest != merge_adapters(adapters).adapter.digest
    parents = json.loads(Path("m/cogen.json").read_text())["parents"]
    assert parents[0]["gram_sha256"] == manifest["gram_sha256"]
    assert not Path("m", GRAM_NAME).exists()
    path = Path("grid", GRAM_NAME)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    refused(cogen("merge", "grid", "clinical", "--out", "m2"), "gram.safetensors with sha256")
    path.unlink()
    refused(cogen("merge", "grid", "clinical", "--method", "regmean", "--out", "m2"), "sha256", "got none")


def test_regmean_without_statistics_says_what_to_do(tmp_path: Path) -> None:
    plain = [Adapter({"x": Factors(f.a, f.b, f.scaling)}, "", None, {"domain": "d"}) for f in (part(1), part(2))]
    with pytest.raises(
        MergeError, match=r"Gram statistics .* got none \(adapter 1, 'd'\)\. Train with cogen train --gram"
    ):
        merge_adapters(plain, method="regmean")
    plain[0].save(tmp_path / "a")
    (tmp_path / "a" / GRAM_NAME).write_bytes(b"no")
    with pytest.raises(AdapterError, match=r"gram\.safetensors"):
        Adapter.open(tmp_path / "a")
