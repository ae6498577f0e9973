"""The settings of a run: a TOML file read into frozen pydantic models, which check types and bounds.

Later ones win: defaults, the TOML file, `--set table.key=value`.
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
Count = Annotated[int, Field(ge=1, le=10**12)]
Precision = Literal["auto", "float32", "bfloat16", "nf4"]
Wire = Literal["float32", "int8"]
Schedule = Literal["parallel", "relay"]
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
    """`[base]`: the base model, which every domain continues pretraining."""

    name: Annotated[str, Field(min_length=1)] = "smollm2-135m"
    """The base model: a local folder, a hub id such as org/model, or a name that cogen knows."""
    precision: Precision = "auto"
    """Precision of the frozen weights; auto is bfloat16 if the device has it in hardware, else float32; nf4 is 4 bits and
    needs CUDA."""


class Domain(Table):
    """`[[domains]]`: one client and its corpus."""

    name: str = Field(pattern=DOMAIN_PATTERN)
    data: Annotated[str, Field(min_length=1)] | None = None
    """The corpus: a file or folder, relative to the config file, or hf://datasets/OWNER/NAME. A simulation needs it; in a
    real federation each domain names its own corpus."""
    rank: Count | None = None
    """LoRA rank of this domain; without it, train.rank."""
    weight: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """Weight of this domain in the mean, instead of its trained tokens."""
    tokens_per_round: Count | None = None
    """Tokens that this domain trains in a round; without it, train.tokens_per_round."""


class Train(Table):
    """`[train]`: how every client trains."""

    renamed: ClassVar[Mapping[str, str]] = RENAMED["train"]

    tokens_per_round: Count = 20_000
    """Tokens that each client trains in a round, rounded up to whole blocks."""
    sequence_length: Annotated[int, Field(ge=8, le=131_072)] = 512
    """Tokens of a block."""
    batch_size: Count = 1
    """Blocks of an optimizer step."""
    gradient_accumulation_steps: Count = 1
    """Micro-batches per optimizer step; more of them take less memory and give the same gradient."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: less memory, about 1.5 times the time."""
    replay: Annotated[str, Field(min_length=1)] | None = None
    """General text to mix in: a file or folder, relative to the config file; without it nothing is mixed in."""
    replay_frac: Share = 0.05
    """Share of tokens that come from `replay`, among those that do not come from `annealing`."""
    annealing: Annotated[str, Field(min_length=1)] | None = None
    """Text for the annealing phase, the last steps of training: a file or folder, relative to the config file; without it
    there is no such phase."""
    annealing_frac: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Length of the annealing phase, as a share of all tokens of all rounds."""
    annealing_mix: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of the tokens of the annealing phase that come from `annealing`."""
    cpu_kernels: CpuKernels = "auto"
    """Layers on the CPU: int8 multiplies with frozen weights in 8 bits, fused in the base's precision; auto is int8 if the
    CPU has VNNI, else fused; off uses the layers of transformers and PEFT."""
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-3
    """Highest learning rate of the schedule."""
    warmup_frac: Fraction = 0.03
    """Length of the warm-up, as a share of all steps of all rounds."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """Learning rate after the warm-up: cosine falls as half a cosine; wsd stays level, then falls over the last
    `decay_frac`."""
    decay_frac: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Length of the fall of wsd, as a share of all steps of all rounds."""
    min_lr_ratio: Fraction = 0.1
    """Learning rate at the last step of the last round, as a share of `learning_rate`."""
    rank: Count = 16
    """LoRA rank."""
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """LoRA alpha, with delta_W = alpha / rank * B @ A; without it 2 * rank, or 8 with rslora."""
    rslora: bool = False
    """Use rsLoRA, with delta_W = alpha / sqrt(rank) * B @ A: steps keep their size at high rank."""
    rank_pattern: dict[str, Count] = Field(default={})
    """LoRA rank of modules by pattern, such as {"layers.0-9.mlp" = 8}; the first pattern that matches wins."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0.0, allow_inf_nan=False)]] = Field(default={})
    """LoRA alpha of modules by pattern; the first pattern that matches wins."""
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Patterns of the linear layers that get an adapter; without it, all except the head."""
    train_embeddings: bool = False
    """Adapt the input embeddings too, at a tenth of the learning rate; the head stays that of the base, even if it is tied."""
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """The gradient of a step is clipped to this l2 norm."""
    head_chunk_tokens: Count = 256
    """Tokens whose logits are in memory at a time; the fused loss chooses its own number."""
    fused_loss: Literal["auto", "off"] = "auto"
    """auto computes head and loss in one kernel on CUDA if liger-kernel is installed; off never does."""
    checkpoint_seconds: Annotated[float, Field(gt=0.0)] = 60.0
    """Seconds between saved states of `cogen train`."""
    early_stop_patience: Annotated[int, Field(ge=0)] = 0
    """`cogen train` stops after so many evaluations in a row without a better one; 0 never stops early."""
    early_stop_every: Count = 50
    """Optimizer steps between evaluations for early stopping."""
    early_stop_frac: Share = 0.05
    """Share of documents reserved for these evaluations; they are neither trained on nor held out."""
    early_stop_tokens: Count = 4096
    """Tokens of these documents that are scored."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of all random choices: initial factors, order of documents, choice of clients."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.gradient_accumulation_steps > self.batch_size:
            raise ValueError(
                f"train.gradient_accumulation_steps = {self.gradient_accumulation_steps} is above "
                f"train.batch_size = {self.batch_size}"
            )
        if self.schedule == "wsd" and self.warmup_frac + self.decay_frac > 1.0 + 1e-9:
            raise ValueError("train.warmup_frac and train.decay_frac add up to more than 1")
        return self

    @property
    def scaling(self) -> float:
        """The factor before B @ A, the same for all ranks of a run."""
        return self.scaling_at(self.rank, self.alpha)

    def scaling_at(self, rank: int, alpha: float | None) -> float:
        """alpha / rank, or alpha / sqrt(rank) with rsLoRA; without an alpha 2, or 8 / sqrt(rank) with rsLoRA."""
        if self.rslora:
            return (8.0 if alpha is None else alpha) / math.sqrt(rank)
        return 2.0 if alpha is None else alpha / rank

    def require_rounds(self) -> None:
        """Refuse settings that have a meaning for one domain alone.

        Raises:
            ConfigError: factors with several scalings, or training that ends when it likes, in a federation.
        """
        alone = ("rank_pattern", "alpha_pattern", "early_stop_patience", "train_embeddings")
        for key in alone:
            if value := getattr(self, key):
                raise ConfigError(
                    "cannot run rounds",
                    expected=f"no train.{key}",
                    got=str(value),
                    fix="It is for cogen train; take it out of the config.",
                )


class Federation(Table):
    """`[federation]`: the rounds, which replies count, and how they are combined."""

    renamed: ClassVar[Mapping[str, str]] = RENAMED["federation"]

    schedule: Schedule = "parallel"
    """parallel trains all domains side by side and merges their updates. In a relay one adapter visits the domains in turn,
    in a new random order each round."""
    result: Literal["dense", "routed"] = "dense"
    """dense is the combined model alone. routed also keeps every expert, with a gate that chooses one by the text; it needs
    one round side by side, whose replies are the experts."""
    num_rounds: Count = 1
    """Rounds of training and merging; in a relay, visits to each domain."""
    min_valid_clients: Count | None = None
    """A round with fewer valid replies ends the run; without it, more than half of the domains must reply."""
    round_deadline_seconds: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 6 * 3600.0
    """Seconds that a round, a visit of a relay, and the scoring at the end wait for replies."""
    connect_wait_seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 60.0
    """Seconds that the start waits for all domains to connect, and scoring for those of the last round; then the run goes
    on without the missing ones."""
    min_connected_wait_seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 600.0
    """Seconds that a round waits until min_valid_clients are connected; then the run ends."""
    stragglers: Literal["drop", "next"] = "drop"
    """A reply after the deadline is dropped, or enters the next round."""
    straggler_weight: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """The weight of a straggler that enters the next round is multiplied by this."""
    fraction_train: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the domains that train in a round, at least min_valid_clients; each round draws them anew by train.seed."""
    max_failures: Count = 3
    """A domain is suspended after so many rounds in a row without a valid reply, until the run is started again."""
    keep_rounds: Count | None = None
    """The run folder keeps replies and factors of the last so many rounds, and only round.json of older ones; without it,
    all are kept."""
    parallel_clients: Count = 1
    """Clients that train at the same time in a simulation; they share the cores, and each needs its own memory."""
    server_rank: Count | None = None
    """Rank of the global adapter; without it, the largest rank of a client."""
    server_learning_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    """Learning rate of the server: the clients' mean update is multiplied by it."""
    server_optimizer: Literal["none", "momentum", "nesterov", "adam"] = "none"
    """The server's optimizer, which takes the clients' mean update of each round as its gradient."""
    server_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Momentum of the server's optimizer; beta1 of adam."""
    server_second_momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.99
    """beta2 of the server's adam."""
    align_factors: bool = True
    """Rotate the new global factors to lie closest to the old ones, so that the clients' Adam moments still fit."""
    method: Literal["auto", "mean", "ties", "dare", "tsv_m", "iso_c"] = "auto"
    """How the clients' updates are combined. auto is tsv_m, and mean in a relay or with a robust rule or a server
    optimizer; a run's config has the one that was chosen."""
    density: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of entries that ties and dare keep."""
    space: Literal["core", "knots"] = "core"
    """The basis in which ties and dare act on entries."""
    calibrate: Literal["none", "pico"] = "none"
    """pico scales down output directions that many clients write to; none does not."""
    weighting: Literal["tokens", "equal"] = "tokens"
    """Weights of the clients: by trained tokens, or equal."""
    optimizer_across_rounds: Literal["keep", "reset"] = "keep"
    """Whether clients keep their Adam moments from round to round, or reset them."""
    wire: Wire = "float32"
    """How factors are sent, both ways: int8 has one scale for each direction and is a quarter of the bytes."""
    max_update_norm: Annotated[float, Field(gt=0.0)] = 1000.0
    """A reply is rejected if the Frobenius norm of its client update, over all modules, is above this."""
    max_norm_ratio: Annotated[float, Field(gt=1.0)] = 10.0
    """A client update is dropped if its norm is above so many times the median of the round; in rounds of three or more."""
    robust: Literal["auto", "none", "clip", "median", "krum"] = "auto"
    """Protection against bad client updates: clipped norms, geometric median, or Multi-Krum; auto is clip where
    three or more domains of a real federation train side by side, else none."""
    robust_clip: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    """For clip: the largest norm of a client update, as a multiple of the round's median norm."""
    num_byzantine: Annotated[int, Field(ge=0)] = 1
    """For krum: the number f of bad clients to withstand; a round needs 2 f + 3 valid replies."""
    validation: Annotated[str, Field(min_length=1)] | None = None
    """Public text on the server's machine, on which every client update is scored before it is accepted: a file or folder,
    relative to the config file; without it none is scored."""
    validation_tokens: Count = 4096
    """Tokens of this text that are scored."""
    validation_max_worse_bpb: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.05
    """A client update is rejected if it makes this text worse by more than so many bits per byte."""

    @model_validator(mode="before")
    @classmethod
    def _choose_method(cls, given: object) -> object:
        """TSV-M at scale 1 beats the mean by far, in one round and in several; the promises of the others are about the mean."""
        if not isinstance(given, Mapping) or given.get("method", "auto") != "auto":
            return given
        plain = {"schedule": ("parallel",), "robust": ("auto", "none"), "server_optimizer": ("none",)}
        usual = all(given.get(key, values[0]) in values for key, values in plain.items())
        return {**given, "method": "tsv_m" if usual else "mean"}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.result == "routed" and (self.schedule, self.num_rounds) != ("parallel", 1):
            raise ValueError(
                'federation.result = "routed" keeps experts, and only one round side by side makes them; set '
                'num_rounds = 1 and schedule = "parallel", or route adapters of `cogen train --start` with `cogen merge`'
            )
        if self.schedule == "relay":
            for key, allowed in RELAY_HAS.items():
                if getattr(self, key) not in allowed:
                    raise ValueError(
                        f"federation.{key} = {getattr(self, key)!r} combines updates of several clients, and in a relay "
                        f'there is one at a time; take it out, or set schedule = "parallel"'
                    )
        return self


RELAY_HAS: Mapping[str, tuple[object, ...]] = {
    "method": ("mean",),
    "server_optimizer": ("none",),
    "server_learning_rate": (1.0,),
    "calibrate": ("none",),
    "robust": ("auto", "none"),
    "stragglers": ("drop",),
    "fraction_train": (1.0,),
}
"""What a relay can have of the keys of `[federation]` that are about updates of several clients."""


class Heldout(Table):
    """The held-out documents of a corpus, and how many of their tokens are scored."""

    renamed: ClassVar[Mapping[str, str]] = RENAMED["evaluate"]

    heldout_frac: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.05
    """Share of documents held out, at least one; a hash of the document's id decides."""
    max_heldout_tokens: Count = 8192
    """Held-out tokens of each domain that are scored after the run."""
    round_heldout_tokens: Annotated[int, Field(ge=0)] = 2048
    """Held-out tokens of each domain that are scored before and after each round; 0 scores none."""


class Evaluate(Heldout):
    """`[evaluate]`: the held-out documents, and what else a simulation measures."""

    general: Annotated[str, Field(min_length=1)] | None = None
    """Text that no client trains on, all of it scored after a simulation, for forgetting: a file or folder, relative to the
    config file; without it none is scored."""
    baselines: bool = False
    """After a simulation, train the baselines for the same tokens: every domain alone, and one adapter on all text."""
    num_seeds: Count = 1
    """Number of simulations, with seeds train.seed, train.seed + 1, ..."""

    @property
    def has_summary(self) -> bool:
        """Whether there are baselines, general text or several seeds to summarise."""
        return self.baselines or self.general is not None or self.num_seeds > 1


class Data(Table):
    """`[data]`: how documents are cleaned before they are split and tokenised."""

    strict: bool = False
    """Stop at the first file or line that cannot be read, instead of skipping it with its reason."""
    max_loss_frac: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """Stop where more of a corpus than this share, in bytes, is skipped or dropped (exact copies apart)."""
    unicode: bool = True
    """Convert text to NFC and line feeds, and remove control characters."""
    boilerplate: bool = True
    """Remove headers, footers and page numbers."""
    exact_duplicates: bool = True
    """Drop documents that repeat an earlier one, up to white space."""
    near_duplicates: bool = True
    """Drop documents that nearly repeat an earlier one."""
    near_duplicate_jaccard: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    """Two documents are near-duplicates if they share at least this part of their word 5-grams."""
    quality: bool = True
    """Drop documents that fail the published rules on length, symbols, lines and repetition."""
    redact: bool = False
    """Replace personal data by their kind, such as [email]."""
    leakage: bool = True
    """Drop training documents that nearly repeat a held-out one."""
    perplexity_filter: bool = False
    """Drop documents whose bits per byte under the base are outside min_bits_per_byte and max_bits_per_byte."""
    min_bits_per_byte: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.2
    """For perplexity_filter: a document below this repeats itself and is dropped."""
    max_bits_per_byte: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 4.5
    """For perplexity_filter: a document above this is gibberish to the base and is dropped."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_bits_per_byte >= self.max_bits_per_byte:
            raise ValueError("data.min_bits_per_byte is not below data.max_bits_per_byte")
        return self


class Track(Table):
    """`[track]`: experiment trackers that get the figures of `events.jsonl`."""

    to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ()
    """Trackers to write to; each needs its package, and its own login if it sends figures elsewhere."""
    project: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")] = "cogen"
    """Name of the project in the trackers."""


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
                "domains: a domain named 'general' clashes with evaluate.general, which has a column of that name"
            )
        if (self.federation.min_valid_clients or 0) > len(names):
            raise ValueError(f"federation.min_valid_clients is above the number of domains, {len(names)}")
        if self._krum_needs > min(len(names), self.federation.min_valid_clients or len(names)):
            limits = "federation.min_valid_clients or the number of domains"
            raise ValueError(f"federation.num_byzantine needs {self._krum_needs} valid replies, above {limits}")
        return self

    @property
    def _krum_needs(self) -> int:
        """Valid replies that krum needs, 2 f + 3; without krum 0."""
        return 2 * self.federation.num_byzantine + 3 if self.federation.robust == "krum" else 0

    @property
    def min_valid_clients(self) -> int:
        """Valid replies that a round needs."""
        return self.federation.min_valid_clients or max(len(self.domains) // 2 + 1, self._krum_needs)

    def deployed(self) -> RunConfig:
        """The config of a real federation: `robust = "auto"` becomes clip where three or more domains train side by side."""
        asked = self.federation
        if asked.robust != "auto" or asked.schedule == "relay" or len(self.domains) < 3:
            return self
        return self.model_copy(update={"federation": self.federation.model_copy(update={"robust": "clip"})})

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
        """The seed of each simulation."""
        return range(self.train.seed, self.train.seed + self.evaluate.num_seeds)

    def with_seed(self, seed: int) -> RunConfig:
        """The config of one simulation with this seed."""
        once = self.evaluate.model_copy(update={"num_seeds": 1})
        return self.model_copy(update={"train": self.train.model_copy(update={"seed": seed}), "evaluate": once})

    def rank_of(self, domain: Domain) -> int:
        """LoRA rank of `domain`."""
        return domain.rank or self.train.rank

    def tokens_of(self, domain: Domain) -> int:
        """Tokens that `domain` trains in a round, before they are rounded up to whole blocks."""
        return domain.tokens_per_round or self.train.tokens_per_round

    @property
    def parallel_clients(self) -> int:
        """Clients that train at the same time in a simulation; in a relay there is one."""
        return 1 if self.federation.schedule == "relay" else min(self.federation.parallel_clients, len(self.domains))

    def steps_of(self, domain: Domain) -> int:
        """Optimizer steps that `domain` trains in a round."""
        num_blocks = math.ceil(self.tokens_of(domain) / self.train.sequence_length)
        return math.ceil(num_blocks / self.train.batch_size)

    def require_rounds(self) -> None:
        """Raise ConfigError where `[train]` has settings that work for one domain alone."""
        self.train.require_rounds()

    def require_data(self) -> None:
        """Refuse domains without a corpus, for commands that read all corpora.

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
