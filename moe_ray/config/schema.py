"""The schema of an experiment file.

Every key of the YAML file is a field here, with its default and its bounds; anything else is refused.
Keys are grouped by what they decide: `models`, `domains` and `decoding` decide the text of an answer and
enter its fingerprint; `runtime` and `output` decide only where, when and how fast, and never do.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from moe_ray.config.section import Name, Section
from moe_ray.config.serving import ServingConfig

PromptStyle = Literal["chat", "completion"]
Quantization = Literal["none", "8bit", "4bit"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
JsonScalar = str | int | float | bool | None

OTHER = "other"  # the router's label for queries that belong to no domain

LOCAL_PATH_PREFIXES = ("./", "../", "/", "~")
LOCAL_DATA_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")


def dtype_bytes(name: str) -> int:
    """Return the bytes of one number of a dtype, spelled with or without "torch."; 2 for names that are not known."""
    return {"float64": 8, "float32": 4}.get(name.removeprefix("torch."), 2)


def is_local_path(source: str) -> bool:
    """Say whether `source` names a local path; everything else is a hub id.

    Only the spelling decides (a leading ./, ../, / or ~, or a data file's ending), so that an experiment means
    the same thing in every folder.
    """
    return source.startswith(LOCAL_PATH_PREFIXES) or source in (".", "..") or source.endswith(LOCAL_DATA_SUFFIXES)


class ReasoningMarks(Section):
    """The marks around a model's reasoning trace."""

    open: str = Field(min_length=1, max_length=100, description="the mark that begins the trace, such as <think>")
    close: str = Field(min_length=1, max_length=100, description="the mark that ends it, such as </think>")
    starts_open: bool = Field(
        False, description="every answer begins inside a trace: the prompt holds the opening mark"
    )


class ModelConfig(Section):
    """One model: a checkpoint with its dtype, quantisation, prompt style and engine."""

    path: str = Field(min_length=1, description="hub id, or a local path that starts with ./, ../, / or ~")
    revision: str | None = Field(None, description="hub revision: branch, tag or commit")
    tokenizer: str | None = Field(None, description="another tokenizer than the checkpoint's own")
    dtype: Dtype = "auto"
    quantization: Quantization = "none"
    prompt_style: PromptStyle = "chat"
    overflow: Literal["error", "truncate_left"] = Field(
        "error",
        description="a prompt that does not fit the context: an answer with an error, or cut from the left",
    )
    engine: str = Field("transformers", description="transformers, endpoint, server, scripted, or module:Class")
    engine_settings: dict[str, Any] = Field(
        default_factory=dict, description="settings of that engine; those that decide the text enter the fingerprint"
    )
    trust_remote_code: bool = False
    reasoning: Literal["auto", "none"] | ReasoningMarks = Field(
        "auto",
        description="how a reasoning trace is separated from the answer: auto knows the usual marks, none leaves the "
        "text as it is, {open: MARK, close: MARK} names others",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="switches of the chat template, such as {enable_thinking: false}"
    )
    gpus: Literal["auto"] | Annotated[float, Field(ge=0, le=1024)] = Field(
        "auto",
        description="GPUs for one copy: auto (from its size), a fraction of one, a whole number, or 0 for CPU",
    )
    notes: tuple[str, ...] = Field(
        (), description="shown in the report, e.g. what its training data is known to contain"
    )

    @model_validator(mode="after")
    def _whole_gpus_above_one(self) -> "ModelConfig":
        if self.gpus != "auto" and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus must be auto, at most 1, or a whole number, not {self.gpus}")
        return self


class DataConfig(Section):
    """Where a domain's records are."""

    source: str = Field(min_length=1, description="hub id, or a local .json, .jsonl, .csv, .tsv or .parquet file")
    subset: str | None = Field(None, description="the hub data set's configuration name")
    split: str = "test"
    revision: str | None = None
    ids_file: str | None = Field(None, description="a file with the ids to keep: one a line, or a JSON list or object")


class GraderConfig(Section):
    """A grader with settings of its own."""

    name: str = Field(min_length=1, description="a grader, evaluate:NAME, or a class of yours as module:Class")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of that grader")


class PromptConfig(Section):
    """How an example becomes a prompt. Templates name columns in braces: `Question: {question}`."""

    system: str | None = Field(None, description="system message of the chat style")
    template: str | None = Field(None, description="the user message of the chat style")
    completion_template: str | None = Field(None, description="the whole text of the completion style")
    stop: tuple[str, ...] | None = Field(None, description="strings that end an answer; they are cut off")


class DomainConfig(Section):
    """One domain: its task, its data, its prompt, its graders, and the expert that answers it."""

    task: str = Field(
        description="pubmedqa, law_stackexchange, mbpp, coding, math or reasoning (published formats); decision, "
        "free_text or code (your own columns); or module:Class"
    )
    data: DataConfig
    expert: Name | None = Field(None, description="the model that is this domain's expert")
    max_examples: Annotated[int, Field(ge=1)] | None = Field(None, description="limit, drawn by a hash of the ids")
    max_new_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="overrides decoding.max_new_tokens")
    columns: dict[str, str] = Field(default_factory=dict, description="role -> column, for decision, free_text, code")
    choices: tuple[str, ...] = Field((), description="the labels of a decision task")
    prompt: PromptConfig = PromptConfig()
    graders: tuple[str | GraderConfig, ...] | None = Field(
        None,
        description="names of graders, or {name: NAME, settings: {...}}; evaluate:NAME is a metric of evaluate, "
        "module:Class a class of yours; default: the task's own",
    )
    settings: dict[str, JsonScalar] = Field(
        default_factory=dict, description="settings of the task, such as mbpp's shots_split"
    )
    notes: tuple[str, ...] = ()

    @property
    def grader_configs(self) -> tuple[GraderConfig, ...] | None:
        """The graders that the file names, each with its settings; None where the task's own are wanted."""
        if self.graders is None:
            return None
        return tuple(GraderConfig(name=one) if isinstance(one, str) else one for one in self.graders)

    @property
    def grader_names(self) -> tuple[str, ...] | None:
        """The names of the graders that the file names; None where the task's own are wanted."""
        configs = self.grader_configs
        return None if configs is None else tuple(one.name for one in configs)


class DecodingConfig(Section):
    """How text is drawn from a model."""

    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    samples_per_example: Annotated[int, Field(ge=1, le=10_000)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _samples_need_temperature(self) -> "DecodingConfig":
        if self.samples_per_example > 1 and self.temperature == 0:
            raise ValueError(
                f"samples_per_example is {self.samples_per_example}, but temperature 0 draws the same text each time"
            )
        return self


class SandboxConfig(Section):
    """Limits on generated code."""

    timeout_s: Annotated[float, Field(gt=0, le=600)] = 4.0
    memory_mib: Annotated[int, Field(ge=32)] = 1024
    num_workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    allow_weak: bool = Field(False, description="run code though a protection cannot be had on this machine")


class RuntimeConfig(Section):
    """Where and how fast. Nothing here enters a fingerprint."""

    address: str | None = Field(
        None, description="an existing Ray cluster (auto, or host:port); default: start one here"
    )
    gpus: Literal["auto"] | Annotated[int, Field(ge=0)] = Field("auto", description="GPUs to use at most; 0: CPU only")
    cpu_slots: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="models that run at once on a machine without GPUs; auto: one for each cpu_threads cores"
    )
    cpu_threads: Annotated[int, Field(ge=1)] = Field(
        2, description="threads of a model on CPU; the same on every machine, because it can move a last digit"
    )
    batch_size: Annotated[int, Field(ge=1)] = 16
    batch_memory_gib: Annotated[float, Field(gt=0)] = Field(
        4.0,
        description="memory that the cache of one batch may take; smaller batches are made of long prompts",
    )
    shard_size: Annotated[int, Field(ge=1)] = 32
    max_attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        3, description="times that a lost shard is run whole; then in halves, to find the example at fault"
    )
    start_timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    shard_timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    ray_timeout_s: Annotated[float, Field(ge=5)] = Field(
        60.0,
        description="time in which Ray itself must answer (its head and this machine's raylet, not a model); after it "
        "the run ends, and the same command resumes",
    )
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    probe_examples: Annotated[int, Field(ge=0)] = Field(3, description="examples of the batch-size-1 latency probe")
    temp_dir: Path | None = Field(None, description="Ray's temporary directory, when this run starts Ray")
    sandbox: SandboxConfig = SandboxConfig()


class OutputConfig(Section):
    """Where results go."""

    results_dir: Path = Field(Path("results"), description="the run directory is results_dir/NAME")

    @field_validator("results_dir")
    @classmethod
    def _is_folder(cls, path: Path) -> Path:
        if re.match(r"\w{2,}:/", str(path)):
            raise ValueError(
                f"{path} is an address, not a folder; moe-ray submit --results-dir mirrors runs to addresses"
            )
        return path


class OtherTextsConfig(Section):
    """Queries that belong to no domain."""

    source: str = Field(min_length=1, description="hub id, or a local .json, .jsonl, .csv, .tsv or .parquet file")
    column: str = Field("text", description="the column that holds the query")
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    use: Literal["train", "test"] = Field(
        "train", description="train: split as the domains' texts are; test: never trained on, only tested against"
    )
    max_texts: Annotated[int, Field(ge=1)] | None = Field(None, description="limit, drawn by a hash of the texts")


class RouterTrainingConfig(Section):
    """How a router is trained. Where a kind has another best value, the default here is None."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = Field(None, description="at most; default: the kind's own")
    batch_size: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0)] | None = Field(None, description="default: the kind's own")
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    patience: Annotated[int, Field(ge=1)] = Field(
        2, description="epochs without a better macro-F1 on the validation texts before training ends"
    )
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = Field(256, description="tokens of a text that are read")
    hidden_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field((256,), description="of the gating network")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="of the gating network")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class OutOfDomainConfig(Section):
    """How the router tells a query that belongs to no domain. The baseline answers it."""

    score: Literal["auto", "max_probability", "energy", "mahalanobis", "other_probability"] = Field(
        "auto",
        description="auto: the score that separates the validation texts of `other` best; without such texts, "
        "mahalanobis for transformer, energy for the other kinds",
    )
    keep: Annotated[float, Field(gt=0.5, le=1)] = Field(
        0.95, description="share of the domains' validation texts that stay above the threshold"
    )


class RouterConfig(Section):
    """The router: text -> probabilities over domains."""

    kind: Literal["transformer", "tfidf", "embedding"] = Field(
        "transformer",
        description="transformer: an encoder with a classification head; tfidf: word statistics and logistic "
        "regression; embedding: a small gating network on a causal model's mean input embeddings",
    )
    path: str | None = Field(None, description="a trained router's directory: nothing is trained")
    base_model: str | None = Field(
        None,
        description="hub id or local path; default: distilbert-base-uncased, and the baseline's for embedding",
    )
    revision: str | None = None
    from_scratch: bool = Field(False, description="take the base model's architecture and tokenizer, not its weights")
    architecture: dict[str, Any] | None = Field(
        None, description="transformers configuration in place of a base model: {model_type: distilbert, dim: 64, ...}"
    )
    tokenizer: str | None = Field(
        None, description="tokenizer for `architecture`; default: a WordPiece vocabulary learned from the texts"
    )
    query: Literal["question", "prompt"] = Field(
        "question", description="question: as a user types it, without the context; prompt: all that a model is asked"
    )
    data: dict[Name, DataConfig] = Field(
        default_factory=dict, description="records to train on, by domain, in its task's format; default: the domain's"
    )
    other: tuple[OtherTextsConfig, ...] = Field((), description="queries that belong to no domain")
    max_texts_per_domain: Annotated[int, Field(ge=1)] | None = Field(None, description="drawn by a hash of the ids")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="share of the texts kept for testing")
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of the training texts kept for early stopping, temperatures and threshold"
    )
    balance: Literal["none", "weighted", "downsample"] = Field(
        "none", description="weighted: the loss weighs labels evenly; downsample: as many texts as the rarest has"
    )
    training: RouterTrainingConfig = RouterTrainingConfig()
    out_of_domain: OutOfDomainConfig = Field(
        OutOfDomainConfig(),
        validation_alias=AliasChoices("out_of_domain", "foreign"),
        serialization_alias="foreign",  # in fingerprints, which a new name must not change
    )
    gpus: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto", description="GPUs to train and route on: auto takes one where there is one, 0 is the CPU"
    )


class ExperimentConfig(Section):
    """One experiment: models, domains, decoding, and how to run them."""

    name: Name
    description: str = ""
    models: dict[Name, ModelConfig] = Field(min_length=1)
    baseline: Name | None = None
    domains: dict[Name, DomainConfig] = Field(min_length=1)
    matrix: Literal["assigned", "full"] = Field(
        "assigned",
        description="assigned: the baseline everywhere and each expert on its domains; full: all models everywhere",
    )
    likelihood: bool = Field(True, description="also measure log-likelihoods of the choices and of the reference")
    decoding: DecodingConfig = DecodingConfig()
    router: RouterConfig | None = Field(None, description="trained, or loaded, as a part of the run")
    runtime: RuntimeConfig = RuntimeConfig()
    serving: ServingConfig = ServingConfig()
    output: OutputConfig = OutputConfig()

    def models_of(self, domain: str) -> tuple[str, ...]:
        """Names of the models that answer `domain`, in the order of the file."""
        if self.matrix == "full":
            return tuple(self.models)
        wanted = {self.baseline, self.domains[domain].expert}
        return tuple(name for name in self.models if name in wanted)
