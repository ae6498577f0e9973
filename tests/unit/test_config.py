"""Settings: shipped ones load, wrong ones are refused with helpful errors, written ones read back the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cogen.config import RENAMED, RunConfig, Train, load_config
from cogen.errors import ConfigError
from cogen.records import apply_overrides

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(CONFIGS.glob("*.toml"))


def toml(tmp_path: Path, rest: str = "", names: tuple[str, ...] = ("clinical", "grid", "materials")) -> Path:
    """A config file of its own folder; `rest` follows the domains, so it may also go on with the last of them."""
    domains = "".join(f'[[domains]]\nname = "{n}"\ndata = "corpora/{n}.jsonl"\n' for n in names)
    path = tmp_path / "here" / "run.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(domains + rest, "utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    line = str(caught.value)
    assert "\n" not in line and "expected" in line and "got" in line
    return line


def test_configs_ship() -> None:
    assert {"quickstart.toml", "textbooks.toml"} <= {p.name for p in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_every_shipped_config_loads_and_opens_with_its_command(path: Path) -> None:
    config = load_config(path)
    assert len(config.domains) >= 2
    first = path.read_text("utf-8").splitlines()[0]
    assert first == f"# cogen simulate configs/{path.name}"


@pytest.mark.parametrize(
    ("rest", "key", "nearest"),
    [
        ("[trian]\nrank = 8\n", "trian", "train"),
        ("[train]\nlearning_rat = 0.1\n", "train.learning_rat", "learning_rate"),
        ("rnk = 8\n", "domains.2.rnk", "rank"),
        ("[federation]\nnum_round = 2\n", "federation.num_round", "num_rounds"),
        ("[base]\nnames = 'x'\n", "base.names", "name"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path, rest: str, key: str, nearest: str) -> None:
    line = refusal(toml(tmp_path, rest))
    assert f"unknown key {key!r}" in line
    assert line.endswith(f"Did you mean {nearest!r}?")


def test_an_unknown_key_like_no_other_is_refused_without_a_guess(tmp_path: Path) -> None:
    line = refusal(toml(tmp_path, "[evaluate]\nzzzzzz = 1\n"))
    assert "one of baselines, general, heldout_frac, max_heldout_tokens, num_seeds, round_heldout_tokens" in line
    assert line.endswith("Remove it.")


@pytest.mark.parametrize(
    ("rest", "place"),
    [
        ("rank = 0\n", "domains.2.rank"),
        ("weight = 0\n", "domains.2.weight"),
        ("weight = inf\n", "domains.2.weight"),
        ("[train]\nrank = 0\n", "train.rank"),
        ("[train]\nlearning_rate = 0\n", "train.learning_rate"),
        ("[train]\nlearning_rate = 1.5\n", "train.learning_rate"),
        ("[train]\nlearning_rate = nan\n", "train.learning_rate"),
        ("[train]\nalpha = inf\n", "train.alpha"),
        ("[train]\nsequence_length = 7\n", "train.sequence_length"),
        ("[train]\nwarmup_frac = 1.01\n", "train.warmup_frac"),
        ("[train]\nseed = 2147483648\n", "train.seed"),
        ("[train]\nreplay = ''\n", "train.replay"),
        ("[train]\nreplay_frac = 1\n", "train.replay_frac"),
        ("[train]\nannealing_frac = 0\n", "train.annealing_frac"),
        ("[train]\nannealing_mix = 1.1\n", "train.annealing_mix"),
        ("[train]\ngradient_accumulation_steps = 0\n", "train.gradient_accumulation_steps"),
        ("[train]\nschedule = 'linear'\n", "train.schedule"),
        ("[train]\ntarget_modules = []\n", "train.target_modules"),
        ("[train]\nrank_pattern = { mlp = 0 }\n", "train.rank_pattern.mlp"),
        ("[train]\nalpha_pattern = { mlp = 'x' }\n", "train.alpha_pattern.mlp"),
        ("[train]\nearly_stop_frac = 0\n", "train.early_stop_frac"),
        ("[train]\ntokens_per_round = 10.5\n", "train.tokens_per_round"),
        ("[federation]\nserver_rank = 0\n", "federation.server_rank"),
        ("[federation]\nserver_learning_rate = inf\n", "federation.server_learning_rate"),
        ("[federation]\nnum_rounds = 0\n", "federation.num_rounds"),
        ("[federation]\nweighting = 'documents'\n", "federation.weighting"),
        ("[evaluate]\nheldout_frac = 1\n", "evaluate.heldout_frac"),
        ("[evaluate]\nheldout_frac = 0\n", "evaluate.heldout_frac"),
        ("[evaluate]\nround_heldout_tokens = -1\n", "evaluate.round_heldout_tokens"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_place(tmp_path: Path, rest: str, place: str) -> None:
    line = refusal(toml(tmp_path, rest))
    assert f"expected {place}: " in line and line.endswith(f"Mend {place}.")


def test_the_bounds_themselves_are_allowed(tmp_path: Path) -> None:
    config = load_config(
        toml(
            tmp_path,
            "rank = 1\n[train]\nsequence_length = 8\nlearning_rate = 1\nwarmup_frac = 1\nseed = 2147483647\n"
            "max_grad_norm = inf\n[federation]\nmin_valid_clients = 3\n[evaluate]\nround_heldout_tokens = 0\n",
        )
    )
    assert (config.domains[2].rank, config.train.seed, config.min_valid_clients) == (1, 2147483647, 3)


@pytest.mark.parametrize("name", ["", "Clinical", "-a", "a b", "a/b", "..", "a" * 65, "a\\n"])
def test_a_domain_name_that_cannot_be_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert "domains.1.name" in refusal(toml(tmp_path, names=("grid", name)))


def test_the_longest_domain_name_is_allowed(tmp_path: Path) -> None:
    assert load_config(toml(tmp_path, names=("9" + "a_-" * 21,))).domains[0].name == "9" + "a_-" * 21


def test_two_domains_of_a_name_are_refused(tmp_path: Path) -> None:
    assert "two domains are named 'grid'" in refusal(toml(tmp_path, names=("grid", "clinical", "grid")))


def test_more_valid_clients_than_domains_are_refused(tmp_path: Path) -> None:
    line = refusal(toml(tmp_path, "[federation]\nmin_valid_clients = 4\n"))
    assert "federation.min_valid_clients is above the number of domains, 3" in line


@pytest.mark.parametrize(("text", "got"), [("", "got nothing"), ("domains = []\n", "got []")])
def test_no_domains_are_refused(tmp_path: Path, text: str, got: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    line = refusal(path)
    assert "expected domains: " in line and got in line


def test_a_domain_without_data_is_refused_where_it_is_read(tmp_path: Path) -> None:
    """A coordinator does not know where its domains keep their text."""
    path = tmp_path / "run.toml"
    path.write_text('[[domains]]\nname = "grid"\n')
    config = load_config(path)
    assert config.domains[0].data is None and load_config_again(config, tmp_path) == config
    with pytest.raises(ConfigError, match=r"expected data in every \[\[domains\]\], got none \(domain 'grid'\)"):
        config.require_data()


def load_config_again(config: RunConfig, folder: Path) -> RunConfig:
    (folder / "again.toml").write_text(config.to_toml())
    return load_config(folder / "again.toml")


@pytest.mark.parametrize(
    ("override", "table", "key", "value"),
    [
        ("train.rank=8", "train", "rank", 8),
        ("train.learning_rate=3e-4", "train", "learning_rate", 3e-4),
        ("train.learning_rate = 0.5 ", "train", "learning_rate", 0.5),
        ("federation.weighting=equal", "federation", "weighting", "equal"),
        ("federation.weighting='equal'", "federation", "weighting", "equal"),
        ("base.name=org/model=v2", "base", "name", "org/model=v2"),
    ],
)
def test_an_override_wins_over_the_file_with_its_type(
    tmp_path: Path, override: str, table: str, key: str, value: Any
) -> None:
    rest = "[train]\nrank = 4\nlearning_rate = 0.1\n[federation]\nweighting = 'tokens'\n"
    found = getattr(getattr(load_config(toml(tmp_path, rest), [override]), table), key)
    assert found == value and type(found) is type(value)


def test_overrides_make_a_table_that_the_file_omits_and_the_last_wins(tmp_path: Path) -> None:
    assert load_config(toml(tmp_path), ["train.rank=8", "train.rank=2"]).train.rank == 2


def test_an_override_is_bounded_as_the_file_is(tmp_path: Path) -> None:
    assert "expected train.rank: " in refusal(toml(tmp_path), "train.rank=0")


def test_an_override_of_an_unknown_table_or_key_is_refused(tmp_path: Path) -> None:
    assert refusal(toml(tmp_path), "federated.num_rounds=2").endswith("Did you mean 'federation'?")
    assert refusal(toml(tmp_path), "train.ranks=2").endswith("Did you mean 'rank'?")


@pytest.mark.parametrize("override", ["train.rank", "rank=8", "train.=8", "=8", "", "train"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    line = refusal(toml(tmp_path), override)
    assert f"expected table.key=value, got {override!r} (--set)" in line


@pytest.mark.parametrize("override", ["domains.name=x", "domains.0.rank=8"])
def test_domains_are_not_for_overrides(tmp_path: Path, override: str) -> None:
    assert "got 'domains' (--set). Change domains in the file." in refusal(toml(tmp_path), override)
    with pytest.raises(ConfigError, match="Change domains in the file"):
        apply_overrides({}, [override])


def test_an_override_of_a_value_that_is_no_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a table such as train, got 'train'"):
        apply_overrides({"train": 3}, ["train.rank=8"])


def test_what_is_written_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(
        toml(
            tmp_path,
            "rank = 3\nweight = 0.25\n[base]\nname = 'a/ü'\n[train]\nalpha = 5\nlearning_rate = 1e-5\nmax_grad_norm = inf\n"
            "replay = 'general'\nannealing = '/data/qa'\ntarget_modules = ['q_proj', 'mlp']\n"
            "rank_pattern = { 'layers.0-9.mlp' = 8, q_proj = 2 }\nalpha_pattern = { mlp = 1.5 }\n"
            "[federation]\nserver_rank = 7\nmin_valid_clients = 1\n[evaluate]\nheldout_frac = 0.3\ngeneral = 'plain.jsonl'\n",
        )
    )
    elsewhere = tmp_path / "other" / "config.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text(config.to_toml(), "utf-8")
    assert load_config(elsewhere) == config
    assert config != load_config(toml(tmp_path))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_every_shipped_config_reads_back_equal(tmp_path: Path, path: Path) -> None:
    copy = tmp_path / "config.toml"
    copy.write_text(load_config(path).to_toml(), "utf-8")
    assert load_config(copy) == load_config(path)


def test_paths_resolve_from_the_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rest = "[train]\nreplay = 'general'\nannealing = '/data/qa'\n[evaluate]\ngeneral = 'plain.jsonl'\n"
    path = toml(tmp_path, "[base]\nname = '../bases/small'\n" + rest)
    (tmp_path / "bases" / "small").mkdir(parents=True)
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    config = load_config(Path("../here/run.toml"))
    assert config.domains[1].data == str(path.parent / "corpora" / "grid.jsonl")
    assert config.base.name == str(tmp_path / "bases" / "small")
    assert config.train.replay == str(path.parent / "general") and config.train.annealing == "/data/qa"
    assert config.evaluate.general == str(path.parent / "plain.jsonl")


def test_every_seed_is_the_run_once_with_that_seed(tmp_path: Path) -> None:
    config = load_config(toml(tmp_path, "[train]\nseed = 5\n[evaluate]\nnum_seeds = 3\nbaselines = true\n"))
    assert list(config.seeds) == [5, 6, 7]
    once = config.with_seed(6)
    assert (once.train.seed, list(once.seeds), once.evaluate.baselines) == (6, [6], True)
    assert once.model_copy(update={"train": config.train, "evaluate": config.evaluate}) == config


def test_a_domain_called_general_with_general_text_is_refused(tmp_path: Path) -> None:
    names = ("clinical", "general")
    assert load_config(toml(tmp_path, names=names)).domains[1].name == "general"
    assert "a domain named 'general'" in refusal(toml(tmp_path, "[evaluate]\ngeneral = 'plain.jsonl'\n", names))


def test_absolute_home_and_hub_names_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "run.toml"
    path.write_text(
        '[base]\nname = "org/model"\n[[domains]]\nname = "a"\ndata = "/data/a"\n'
        '[[domains]]\nname = "b"\ndata = "~/b.jsonl"\n'
    )
    config = load_config(path)
    assert config.base.name == "org/model"
    assert [d.data for d in config.domains] == ["/data/a", str(tmp_path / "home" / "b.jsonl")]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    line = refusal(tmp_path / "none.toml")
    assert f"got no such file ({tmp_path / 'none.toml'})" in line


@pytest.mark.parametrize(
    ("content", "reason"), [(b"[train\n", "line 1"), (b"[[domains]]\nname = '\xff'\n", "0xff"), (b"a = 1\na = 2\n", "")]
)
def test_a_file_that_is_not_toml_in_utf8_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    line = refusal(path)
    assert "expected TOML in UTF-8" in line and reason in line and str(path) in line


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    assert "expected TOML in UTF-8" in refusal(tmp_path)


@pytest.mark.parametrize(("num_domains", "majority"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4)])
def test_a_round_needs_a_majority_unless_told(tmp_path: Path, num_domains: int, majority: int) -> None:
    path = toml(tmp_path, names=tuple(f"d{n}" for n in range(num_domains)))
    assert load_config(path).min_valid_clients == majority
    assert load_config(path, ["federation.min_valid_clients=1"]).min_valid_clients == 1


def test_the_server_takes_the_largest_client_rank_unless_told(tmp_path: Path) -> None:
    path = toml(tmp_path, "rank = 5\n[train]\nrank = 3\n")
    config = load_config(path)
    assert [config.rank_of(d) for d in config.domains] == [3, 3, 5]
    assert config.server_rank == 5
    assert load_config(path, ["train.rank=9"]).server_rank == 9
    assert load_config(path, ["federation.server_rank=2"]).server_rank == 2


def test_scaling_is_two_at_any_rank_or_alpha_over_rank() -> None:
    assert [Train(rank=r).scaling for r in (1, 4, 64)] == [2.0, 2.0, 2.0]
    assert Train(rank=8, alpha=4.0).scaling == 0.5


@pytest.mark.parametrize(
    "setting",
    ["rank_pattern={ mlp = 2 }", "alpha_pattern={ mlp = 2.0 }", "early_stop_patience=3", "train_embeddings=true"],
)
def test_what_is_for_one_domain_alone_is_refused_in_rounds(tmp_path: Path, setting: str) -> None:
    config = load_config(toml(tmp_path), [f"train.{setting}"])
    with pytest.raises(ConfigError, match=rf"cannot run rounds: expected no train\.{setting.partition('=')[0]}, got"):
        config.require_rounds()
    load_config(toml(tmp_path)).require_rounds()


def test_a_config_cannot_be_changed(tmp_path: Path) -> None:
    config: RunConfig = load_config(toml(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        config.train.rank = 3


@pytest.mark.parametrize(
    ("table", "old", "new"), [(table, old, new) for table, keys in RENAMED.items() for old, new in keys.items()]
)
def test_a_key_of_an_earlier_version_is_refused_with_its_new_name(
    tmp_path: Path, table: str, old: str, new: str
) -> None:
    """In a file and by --set. Red: the key that is spelt most like it, `head_chunk_tokens` for the old name of `sequence_length`."""
    said = f"unknown key '{table}.{old}'", f"It is called {new!r} now."
    for line in (refusal(toml(tmp_path, f"[{table}]\n{old} = 1\n")), refusal(toml(tmp_path), f"{table}.{old}=1")):
        assert all(words in line for words in said)
    known = RunConfig.model_fields[table].annotation
    assert known is not None and new in known.model_fields and old not in known.model_fields


def test_every_renamed_key_is_in_the_table_of_names() -> None:
    """Red: one is missing in the dictionary, and its error guesses."""
    assert {table: len(keys) for table, keys in RENAMED.items()} == {"train": 10, "federation": 8, "evaluate": 1}
