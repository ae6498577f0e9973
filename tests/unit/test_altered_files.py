"""What a domain keeps on disk is used only as it was written: one flipped bit in each kind of file.

Prepared text is in `test_prepare.py`, the file of a training state in `test_resume_training.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cogen.adapter import factor_digest
from cogen.base import describe_base, load_base
from cogen.config import load_config
from cogen.deploy.join import require_base
from cogen.errors import AlteredFile, FingerprintMismatch
from cogen.node.domain_settings import private_seed, settings_of_run
from cogen.node.replies import keep_reply, load_reply
from cogen.node.round_states import RoundStates
from cogen.node.stopping import Check
from cogen.node.trainer import Trainer
from cogen.protocol.messages import EvaluateReply, Figures, Score, TrainReply
from cogen.protocol.settings import WorkSettings, work_settings
from cogen.train.state import TrainState
from tests.member import some_factors, some_member


def flip(path: Path) -> None:
    """One bit in the middle; size and times stay, so that only the content tells."""
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def settings_in(config_file: Path) -> WorkSettings:
    config = load_config(config_file)
    return work_settings(config, config.domains[1])


class Cut(Exception):
    """Instead of a kill."""


def cut_after(num_steps: int) -> Check:
    """A check that stops the work at that step, counted over scoring and training."""
    left = [num_steps]

    def check() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Cut

    return check


def trainer_in(folder: Path, config_file: Path) -> Trainer:
    config = load_config(config_file)
    domain, own = config.domains[1], settings_of_run(config)
    return Trainer(work_settings(config, domain), own, domain.name, str(domain.data), config.base.name, folder)


def test_a_round_whose_saved_middle_was_altered_starts_again_with_the_same_result(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the state of the round before it. Red: an error in every try, or a start without Adam's moments."""
    start = some_factors(config_file)
    whole, again = (trainer_in(tmp_path / name, config_file) for name in ("whole", "again"))
    for trainer in (whole, again):
        trainer.train(1, start)
    second = whole.train(2, start)
    for num_steps in range(1, 200):
        with contextlib.suppress(Cut):
            again.train(2, start, check=cut_after(num_steps))
        if parts := list(again.folder.glob("part-*.safetensors")):
            break
    flip(parts[0])
    capsys.readouterr()
    assert factor_digest(again.train(2, start).factors) == factor_digest(second.factors)
    assert "round 2 starts again: cannot resume: expected a saved training state" in capsys.readouterr().err


def test_the_state_of_the_round_before_must_be_whole(tmp_path: Path) -> None:
    """An older one would give another result. Red: it is taken, or no moments at all."""
    import torch

    states = RoundStates(tmp_path, "key", are_reset=False)
    for number in (1, 2):
        TrainState({"m.step": torch.tensor(float(number))}).save(tmp_path / f"state-{number:04d}.safetensors", "key")
    part = tmp_path / "part-0003-x.safetensors"
    found = states.first(3, part)
    assert found is not None and found.moments["m.step"] == 2.0
    shutil.copy(tmp_path / "state-0001.safetensors", tmp_path / "state-0002.safetensors")
    with pytest.raises(AlteredFile, match=r"state-0002\.safetensors"):
        states.first(3, part)
    assert RoundStates(tmp_path, "key", are_reset=True).first(3, part) is None


@pytest.mark.parametrize("name", ["reply.json", "reply.safetensors", "hashes.json"])
def test_a_kept_reply_that_was_altered_is_not_sent(
    config_file: Path, tmp_path: Path, tiny_folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it stays readable, too: a weight, a figure. Red: a file without a hash."""
    fingerprint = describe_base(str(tiny_folder)).fingerprint
    figures = Figures(num_tokens=512, seconds=1.0, bits_per_byte_before=1.25, bits_per_byte_after=1.125)
    arrays = {"m.a": np.full((4, 64), 0.25, np.float32), "m.b": np.full((64, 4), 0.5, np.float32)}
    reply = TrainReply(domain="grid", fingerprint=fingerprint, figures=figures, arrays=arrays)
    keep_reply(tmp_path, "key", reply)
    found = load_reply(tmp_path, "key", TrainReply)
    assert found is not None and found.figures == figures and np.array_equal(found.arrays["m.a"], arrays["m.a"])
    flip(tmp_path / "key" / name)
    assert load_reply(tmp_path, "key", TrainReply) is None
    assert "a kept reply is not used" in capsys.readouterr().err
    keep_reply(tmp_path, "key", reply)  # trained again
    assert load_reply(tmp_path, "key", TrainReply) is not None
    assert load_reply(tmp_path, "another", TrainReply) is None and capsys.readouterr().err == ""


def test_a_figure_that_stays_readable_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_reply(
        tmp_path,
        "key",
        EvaluateReply(domain="grid", scores={"base": Score(bits_per_byte=1.25, num_bytes=9, num_tokens=5)}),
    )
    header = tmp_path / "key" / "reply.json"
    header.write_text(header.read_text().replace("1.25", "1.26"))
    assert load_reply(tmp_path, "key", EvaluateReply) is None


@pytest.mark.parametrize("content", ["flipped", "zeros", "cut", "old"])
def test_a_secret_that_was_altered_orders_nothing(config_file: Path, tmp_path: Path, content: str) -> None:
    """Zeros are what a crash of the disk may leave, and no secret."""
    path, settings = tmp_path / "order.key", settings_in(config_file)
    seed = private_seed(path, "run", settings)
    assert private_seed(path, "run", settings) == seed
    assert path.stat().st_mode & 0o777 == 0o600
    kept = path.read_bytes()
    if content == "flipped":
        flip(path)
    else:
        path.write_bytes({"zeros": bytes(len(kept)), "cut": kept[:-1], "old": kept[:32]}[content])
    with pytest.raises(AlteredFile, match=r"cannot order the documents: .*order\.key.* remove it"):
        private_seed(path, "run", settings)


def test_weights_are_hashed_where_a_domain_loads_them(tiny_folder: Path, tmp_path: Path) -> None:
    """The cache goes by size and time, so only the files tell. Red: the fingerprint taken from the cache."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    joined = describe_base(str(folder)).fingerprint
    assert load_base(str(folder), device="cpu", fingerprint=joined).info.fingerprint == joined
    flip(folder / "model.safetensors")
    assert describe_base(str(folder)).fingerprint == joined
    with pytest.raises(FingerprintMismatch, match=r"cannot use the base model: expected weights .* its files") as error:
        load_base(str(folder), device="cpu", fingerprint=joined)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    member = some_member().model_copy(update={"base": str(folder), **vars(joined)})
    with pytest.raises(FingerprintMismatch, match="another base model: expected weights"):
        require_base(member)
    assert describe_base(str(folder)).fingerprint != joined  # computed anew, for whoever asks the cache
