"""Settings: TOML in, frozen pydantic models with bounds and units, resolved TOML out.

Order of precedence: defaults, then the TOML file, then `--set table.key=value`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cogen.errors import ConfigError
from cogen.records import Table, apply_overrides, read_toml, validated

DOMAIN_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["auto", "float32", "bfloat16", "nf4"]
CpuKernels = Literal["auto", "int8", "fused", "off"]


RENAMED: Mapping[str, Mapping[str, str]] = {
    "train": {
        "block_tokens": "sequence_length",
        "batch_blocks": "batch_size",
        "accumulate": "gradient_accumulation_steps",
        "checkpoint_activations": "gradient_checkpointing",
        "clip_norm": "max_grad_norm",
        "targets": "target_modules",
        "final_learning_rate_frac": "min_lr_ratio",
        "end_phase": "annealing",
        "end_phase_frac": "annealing_frac",
        "end_phase_mix": "annealing_mix",
    },
    "federation": {
        "server_scale": "server_learning_rate",
        "sample_frac": "fraction_train",
        "late": "stragglers",
        "late_weight": "straggler_weight",
        "turn_factors": "align_factors",
        "robust_f": "num_byzantine",
        "max_increment_norm": "max_update_norm",
        "roster_seconds": "connect_wait_seconds",
    },
    "evaluate": {"controls": "baselines"},
}
"""By table: keys of earlier versions and what they are called now, for the error that names the new one."""


class BaseTable(Table):
    """`[base]`: the model that every domain continues pretraining."""

    name: Annotated[str, Field(min_length=1)] = "smollm2-135m"
    """A local folder, a hub id, or a known name."""
    precision: Precision = "auto"
    """Of the frozen weights; auto is bfloat16 where the device has it in hardware; nf4 is 4 bits, on CUDA alone."""


class Domain(Table):
    """`[[domains]]`: one client and its corpus."""

    name: str = Field(pattern=DOMAIN_PATTERN)
    data: Annotated[str, Field(min_length=1)] | None = None
    """A file or folder, relative to the config file; or hf://datasets/OWNER/NAME. A simulation needs it; in a real
    federation only the domain itself knows it."""
    rank: Count | None = None
    """LoRA rank of this domain; None takes train.rank."""
    weight: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """Weight in the mean instead of the tokens it trained."""
    tokens_per_round: Count | None = None
    """Tokens that this domain trains in a round; None takes train.tokens_per_round."""


class Train(Table):
    """`[train]`: how every client learns."""

    renamed: ClassVar[Mapping[str, str]] = RENAMED["train"]

    tokens_per_round: Count = 20_000
    """Tokens that each client trains in a round, rounded up to whole blocks."""
    sequence_length: Annotated[int, Field(ge=8, le=131_072)] = 512
    """T, the tokens of a block."""
    batch_size: Count = 4
    """B, the blocks of an optimiser step."""
    gradient_accumulation_steps: Count = 1
    """Parts that a step's blocks are worked through in, one after the other: less memory, the same gradient."""
    gradient_checkpointing: bool = False
    """Compute activations anew in the backward pass instead of keeping them: less memory, half as slow again."""
    replay: Annotated[str, Field(min_length=1)] | None = None
    """A file or folder of general text that is mixed in; relative to the config file; None replays nothing."""
    replay_frac: Share = 0.05
    """Share of tokens that come from `replay`, of all those that do not come from `annealing`."""
    annealing: Annotated[str, Field(min_length=1)] | None = None
    """A file or folder of the text to end on; relative to the config file; None has no end phase."""
    annealing_frac: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Share of all tokens of all rounds, at their end, that is the end phase."""
    annealing_mix: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of the end phase's tokens that come from `annealing`."""
    cpu_kernels: CpuKernels = "auto"
    """Fused layers on the CPU, products with frozen weights in int8 (auto: where the CPU has VNNI) or in the base's own
    precision (fused); off leaves the layers as the library has them."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 2e-4
    """Peak of the schedule."""
    warmup_frac: Fraction = 0.03
    """Of all steps of all rounds."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: half a cosine to the end, or level ("stable") and then down over the last `decay_frac`."""
    decay_frac: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Of all steps of all rounds; for wsd."""
    min_lr_ratio: Fraction = 0.1
    """Of the peak, at the last step of the last round."""
    rank: Count = 16
    """LoRA rank r."""
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """delta_W = alpha / rank * B @ A; None is 2 * rank, with rslora 8."""
    rslora: bool = False
    """delta_W = alpha / sqrt(rank) * B @ A, so that steps keep their size at high rank."""
    rank_pattern: dict[str, Count] = Field(default={})
    """Rank of the modules that a pattern such as `layers.0-9.mlp` picks; the first that fits wins."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0.0, allow_inf_nan=False)]] = Field(default={})
    """alpha by pattern, likewise."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Patterns of the linear layers that are adapted; None is all but the head."""
    train_embeddings: bool = False
    """Adapt the input embeddings too, at a tenth of the rate; the head keeps the base's, tied or not."""
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest l2 norm of a step's gradient."""
    head_chunk_tokens: Count = 256
    """Tokens whose logits exist at a time; the fused loss chooses for itself."""
    fused_loss: Literal["auto", "off"] = "auto"
    """Head and loss in one kernel, on CUDA where liger-kernel is installed (auto), or never (off)."""
    checkpoint_seconds: Annotated[float, Field(gt=0.0)] = 60.0
    """Between saved states of `cogen train`."""
    early_stop_patience: Annotated[int, Field(ge=0)] = 0
    """Evaluations in a row without a better one that end `cogen train`; 0 never ends it early."""
    early_stop_every: Count = 50
    """Steps between evaluations."""
    early_stop_frac: Share = 0.05
    """Share of documents that are scored for it: neither trained on nor part of the held-out text."""
    early_stop_tokens: Count = 4096
    """Tokens of them that are scored."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.gradient_accumulation_steps > self.batch_size:
            raise ValueError(
                f"train.gradient_accumulation_steps = {self.gradient_accumulation_steps} parts of train.batch_size = {self.batch_size}"
            )
        if self.schedule == "wsd" and self.warmup_frac + self.decay_frac > 1.0 + 1e-9:
            raise ValueError("train.warmup_frac and train.decay_frac that add up to more than 1")
        return self

    @property
    def scaling(self) -> float:
        """The factor before B @ A, one number for all ranks of a run."""
        return self.scaling_at(self.rank, self.alpha)

    def scaling_at(self, rank: int, alpha: float | None) -> float:
        """alpha / rank, or alpha / sqrt(rank) with rsLoRA; without an alpha 2, or 2 at rank 16."""
        if self.rslora:
            return (8.0 if alpha is None else alpha) / math.sqrt(rank)
        return 2.0 if alpha is None else alpha / rank


class Federation(Table):
    """`[federation]`: rounds, and when one counts."""

    renamed: ClassVar[Mapping[str, str]] = RENAMED["federation"]

    num_rounds: Count = 1
    min_valid_clients: Count | None = None
    """A round with fewer valid replies ends the run; None is more than half of the domains."""
    round_deadline_seconds: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 6 * 3600.0
    """How long a round, and the scoring, waits for replies."""
    connect_wait_seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 60.0
    """How long the start waits for all domains, and scoring for those of the last round; then it goes on without."""
    min_connected_wait_seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 600.0
    """How long a round waits for min_valid_clients to be connected, or back, before it ends the run."""
    stragglers: Literal["drop", "next"] = "drop"
    """What becomes of a reply after the deadline: it is dropped, or enters the next round."""
    straggler_weight: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Factor on the weight of a reply that enters the next round."""
    fraction_train: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the domains that a round asks, at least min_valid_clients; drawn anew by train.seed in each round."""
    max_failures: Count = 3
    """Rounds in a row without a valid reply after which a domain is not asked again in this start of the run."""
    keep_rounds: Count | None = None
    """Rounds whose replies and factors stay in the run folder; of older ones round.json does. None keeps all."""
    parallel_clients: Count = 1
    """Clients that train at the same time in a simulation, each with its share of the cores and memory of its own."""
    server_rank: Count | None = None
    """Rank of the global adapter; None is the largest client rank."""
    server_learning_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    """Factor on the clients' mean update: the server's learning rate."""
    server_optimizer: Literal["none", "momentum", "nesterov", "adam"] = "none"
    """What the server makes of the mean client updates of several rounds."""
    server_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Of the server's optimiser."""
    server_second_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """beta2 of the server's adam."""
    align_factors: bool = True
    """Turn the new global factors to lie closest to the old ones, for the sake of the clients' Adam moments."""
    method: Literal["mean", "ties", "dare", "tsv_m", "iso_c"] = "mean"
    """How the clients' updates are combined."""
    density: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of entries that ties and dare keep."""
    space: Literal["core", "knots"] = "core"
    """Where ties and dare act."""
    calibrate: Literal["none", "pico"] = "none"
    """pico turns output directions down that many clients write to."""
    weighting: Literal["tokens", "equal"] = "tokens"
    optimizer_across_rounds: Literal["keep", "reset"] = "keep"
    """Whether a client's Adam moments live on into the next round."""
    max_update_norm: Annotated[float, Field(gt=0.0)] = 1000.0
    """Largest Frobenius norm of a reply's client update over all modules."""
    robust: Literal["none", "clip", "median", "krum"] = "none"
    """What keeps a bad client update from steering the mean: norms clipped, geometric median, or Multi-Krum."""
    robust_clip: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    """clip: largest norm of a client update, in median norms of the round."""
    num_byzantine: Annotated[int, Field(ge=0)] = 1
    """krum: bad clients that are reckoned with; a round needs 2 f + 3 valid replies."""
    validation: Annotated[str, Field(min_length=1)] | None = None
    """A file or folder of public text on the server's machine, on which every client update is scored before it enters;
    relative to the config file; None scores none."""
    validation_tokens: Count = 4096
    """Tokens of it that are scored."""
    validation_max_worse_bpb: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.05
    """Bits per byte by which a client update may make it worse."""


class Evaluate(Table):
    """`[evaluate]`: the held-out part, and how much of it is read."""

    renamed: ClassVar[Mapping[str, str]] = RENAMED["evaluate"]

    heldout_frac: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of documents held out, chosen by a hash of their id."""
    max_heldout_tokens: Count = 8192
    """Per domain in the final matrix."""
    round_heldout_tokens: Annotated[int, Field(ge=0)] = 2048
    """Per domain before and after each round; 0 leaves both out."""
    general: Annotated[str, Field(min_length=1)] | None = None
    """Text that nobody trains on, scored whole after a simulation; relative to the config file; None scores none."""
    baselines: bool = False
    """After a simulation, train every domain alone and one adapter on all text, for the same tokens."""
    num_seeds: Count = 1
    """Times that a simulation is run: with train.seed, train.seed + 1, ..."""

    @property
    def has_summary(self) -> bool:
        """Whether anything is measured beside the run."""
        return self.baselines or self.general is not None or self.num_seeds > 1


class Data(Table):
    """`[data]`: what is done to documents before they are split and tokenised."""

    strict: bool = False
    """Stop at the first file or line that cannot be read, instead of skipping it with its reason."""
    unicode: bool = True
    """NFC, one kind of line end, no control characters."""
    boilerplate: bool = True
    """Remove headers, footers and page numbers."""
    exact_duplicates: bool = True
    """Drop documents that repeat an earlier one."""
    near_duplicates: bool = True
    """Drop documents that nearly repeat an earlier one."""
    near_duplicate_jaccard: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    """Share of word 5-grams in common from which two documents are near-duplicates."""
    quality: bool = True
    """Drop documents that fail the published rules on length, symbols, lines and repetition."""
    redact: bool = False
    """Replace personal data by their kind, as in [email]."""
    leakage: bool = True
    """Drop training documents that nearly repeat a held-out one."""
    perplexity_filter: bool = False
    """Drop documents whose bits per byte under the base lie outside the two bounds below."""
    min_bits_per_byte: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.2
    """Below, a document repeats itself."""
    max_bits_per_byte: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 4.5
    """Above, a document is gibberish to the base."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_bits_per_byte >= self.max_bits_per_byte:
            raise ValueError("data.min_bits_per_byte is not below data.max_bits_per_byte")
        return self


class Track(Table):
    """`[track]`: experiment trackers, of what `events.jsonl` keeps anyway."""

    to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Each needs its package installed, and its own set-up if it sends figures elsewhere."""
    project: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")] = "cogen"


class RunConfig(Table):
    """A whole config file."""

    base: BaseTable = BaseTable()
    domains: tuple[Domain, ...] = Field(min_length=1)
    train: Train = Train()
    federation: Federation = Federation()
    evaluate: Evaluate = Evaluate()
    data: Data = Data()
    track: Track = Track()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [d.name for d in self.domains]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ValueError(f"domains: two domains are named {doubled[0]!r}")
        if self.evaluate.general is not None and "general" in names:
            raise ValueError(
                "domains: a domain named 'general', beside evaluate.general, which is a column of that name"
            )
        if (self.federation.min_valid_clients or 0) > len(names):
            raise ValueError(f"federation.min_valid_clients is above the number of domains, {len(names)}")
        if self._krum_needs > min(len(names), self.federation.min_valid_clients or len(names)):
            asked = "federation.min_valid_clients or the number of domains"
            raise ValueError(f"federation.num_byzantine needs {self._krum_needs} valid replies, above {asked}")
        return self

    @property
    def _krum_needs(self) -> int:
        """2 f + 3 with krum, else 0."""
        return 2 * self.federation.num_byzantine + 3 if self.federation.robust == "krum" else 0

    @property
    def min_valid_clients(self) -> int:
        """Valid replies that a round needs."""
        return self.federation.min_valid_clients or max(len(self.domains) // 2 + 1, self._krum_needs)

    @property
    def server_rank(self) -> int:
        """Rank of the global adapter."""
        return self.federation.server_rank or max(self.rank_of(d) for d in self.domains)

    @property
    def corpora(self) -> dict[str, str]:
        """The corpus of every domain that names one."""
        return {d.name: d.data for d in self.domains if d.data is not None}

    @property
    def seeds(self) -> range:
        """Of the runs that a simulation is made of."""
        return range(self.train.seed, self.train.seed + self.evaluate.num_seeds)

    def with_seed(self, seed: int) -> RunConfig:
        """The same run, once, with this seed."""
        once = self.evaluate.model_copy(update={"num_seeds": 1})
        return self.model_copy(update={"train": self.train.model_copy(update={"seed": seed}), "evaluate": once})

    def rank_of(self, domain: Domain) -> int:
        """LoRA rank that `domain` trains."""
        return domain.rank or self.train.rank

    def tokens_of(self, domain: Domain) -> int:
        """Tokens that `domain` trains in a round, before they are rounded up to whole blocks."""
        return domain.tokens_per_round or self.train.tokens_per_round

    def require_rounds(self) -> None:
        """Refuse settings that have a meaning for one domain alone.

        Raises:
            ConfigError: factors with several scalings, or training that ends when it likes, in a federation.
        """
        alone = ("rank_pattern", "alpha_pattern", "early_stop_patience", "train_embeddings")
        for key in alone:
            if value := getattr(self.train, key):
                raise ConfigError(
                    "cannot run rounds",
                    expected=f"no train.{key}",
                    got=str(value),
                    fix="It is for cogen train; take it out of the config.",
                )

    def require_data(self) -> None:
        """Refuse domains without a corpus, for what reads all of them.

        Raises:
            ConfigError: names the first domain without one.
        """
        for domain in self.domains:
            if domain.data is None:
                raise ConfigError(
                    "cannot read corpora",
                    expected="data in every [[domains]]",
                    got="none",
                    where=f"domain {domain.name!r}",
                    fix="Name its file or folder.",
                )

    def to_toml(self) -> str:
        """The resolved settings; reading them back gives an equal config."""
        import tomli_w

        return tomli_w.dumps(self.model_dump(exclude_none=True, mode="json"))


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML config; data paths and a base folder become absolute, from the file's own folder.

    Args:
        overrides: `table.key=value` each, the value as TOML or a bare word.
    Raises:
        ConfigError: missing file, bad TOML, unknown key, value out of bounds.
    """
    path = Path(path)
    values = read_toml(path)
    apply_overrides(values, overrides)
    config = parse_config(values, str(path))
    return _absolute(config, path.resolve().parent)


def parse_config(values: Mapping[str, Any], where: str) -> RunConfig:
    """Validate a config's tables; `where` is named in the error."""
    return validated(RunConfig, values, where)


def _absolute(config: RunConfig, folder: Path) -> RunConfig:
    def resolved(path: str) -> str:
        return path if path.startswith("hf://") else str((folder / Path(path).expanduser()).resolve())

    domains = [d if d.data is None else d.model_copy(update={"data": resolved(d.data)}) for d in config.domains]
    mixed = {k: resolved(p) for k in ("replay", "annealing") if (p := getattr(config.train, k)) is not None}
    general = {} if config.evaluate.general is None else {"general": resolved(config.evaluate.general)}
    local = folder / Path(config.base.name).expanduser()
    base = config.base.model_copy(update={"name": str(local.resolve())}) if local.is_dir() else config.base
    public = {} if config.federation.validation is None else {"validation": resolved(config.federation.validation)}
    tables = {
        "train": config.train.model_copy(update=mixed),
        "evaluate": config.evaluate.model_copy(update=general),
        "federation": config.federation.model_copy(update=public),
    }
    return config.model_copy(update={"domains": tuple(domains), "base": base, **tables})
