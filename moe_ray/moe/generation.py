"""Text from any mixture that moe_ray makes, what its gate says of the prompt, and one expert alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import transformers
from pydantic import Field, model_validator

from moe_ray.architectures import ARCHITECTURES
from moe_ray.checkpoints.identity import CERTIFICATE_FILE
from moe_ray.config.schema import ModelConfig, Section
from moe_ray.engines.settings import TransformersSettings
from moe_ray.engines.transformers.loading import LoadedModel, load
from moe_ray.errors import ConfigError, ModelError
from moe_ray.moe.merge.gate_training import chat_prompt
from moe_ray.moe.records import read_certificate

GATED = "gated_mixture"
NUM_EXPERTS_FIELDS = ("num_experts", "num_local_experts")


class GenerateSettings(Section):
    """How text is made. Greedy unless `temperature` or `top_p` is given."""

    prompt: str | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    greedy: bool = False
    temperature: Annotated[float, Field(ge=0, le=100)] | None = Field(None, description="0: greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    expert: str | int | None = Field(None, description="name or place of the one that answers alone")
    chat: bool | None = Field(None, description="ask in the chat template; default: as the gate was trained, or not")
    mode: Literal["weighted_sum", "select_one"] | None = Field(None, description="default: the checkpoint's")

    @model_validator(mode="after")
    def _greedy_draws_nothing(self) -> "GenerateSettings":
        if (self.greedy or self.temperature == 0) and (self.temperature or self.top_p is not None):
            raise ValueError("greedy text is not drawn: leave temperature and top_p out, or greedy")
        return self

    @property
    def is_drawn(self) -> bool:
        return bool(self.temperature) or self.top_p is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A text, and what the gate says of its prompt: each expert's probability, or in `no_gate` why there is none."""

    text: str
    num_tokens: int
    probabilities: Mapping[str, float] | None
    no_gate: str | None
    expert: str | None


class Mixture:
    """A mixture in memory. Raises `ModelError` when `directory` holds none, or one that cannot be loaded."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # Spelled so that a folder of the current one is not taken for a hub id.
        config = ModelConfig(path=str(directory.expanduser().absolute()), prompt_style="completion")
        self._loaded: LoadedModel = load(config, TransformersSettings())
        self._config: Any = self._loaded.model.config
        self.num_experts = self._num_experts()

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Names of the experts; their places where they have none."""
        return tuple(getattr(self._config, "expert_names", None) or map(str, range(self.num_experts)))

    def expert_index(self, expert: str | int) -> int:
        """Return the place of an expert named by name or place. Raises `ConfigError` naming those there are."""
        names = self.expert_names
        if expert in names:
            return names.index(str(expert))
        place = int(expert) if str(expert).isdecimal() else -1
        if 0 <= place < len(names):
            return place
        known = f"0 to {len(names) - 1}" + ("" if names[0] == "0" else f", or {', '.join(names)}")
        raise ConfigError(f"there is no expert {expert}", where="--expert", remedy=f"experts are {known}")

    def gating_probs(self, prompt: str, chat: bool | None = None) -> dict[str, float] | None:
        """Return each expert's probability for the whole prompt; None for a mixture whose gates judge tokens."""
        if self._config.model_type != GATED:
            return None
        ids, mask = self._ids(prompt, chat)
        probs: list[float] = self._loaded.model.get_gating_probs(ids, mask)[0].tolist()
        return dict(zip(self.expert_names, probs, strict=True))

    def write(self, prompt: str, settings: GenerateSettings) -> Written:
        """Answer `prompt`. Raises `ConfigError` for an expert that is not there, or that cannot answer alone."""
        chosen = self._choice(settings)
        ids, mask = self._ids(prompt, settings.chat)
        self._require_room(ids.shape[1] + settings.max_new_tokens)
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(settings.seed)
            output = self._loaded.model.generate(
                ids, attention_mask=mask, generation_config=self._how(settings), **chosen
            )
        tokens = output[0, ids.shape[1] :].tolist()
        expert = chosen.get("forced_expert")
        return Written(
            text=self._loaded.tokenizer.decode(tokens, skip_special_tokens=True),
            num_tokens=len(tokens),
            probabilities=self.gating_probs(prompt, settings.chat),
            no_gate=None if self._config.model_type == GATED else self._no_gate(),
            expert=None if expert is None else self.expert_names[expert],
        )

    def _num_experts(self) -> int:
        found = next((getattr(self._config, name) for name in NUM_EXPERTS_FIELDS if hasattr(self._config, name)), None)
        if not found:
            raise ModelError(
                f"is not a mixture: {self._config.model_type} has no experts",
                where=str(self._directory),
                remedy="name the folder of a mixture that moe-ray moe made",
            )
        return int(found)

    def _choice(self, settings: GenerateSettings) -> dict[str, Any]:
        """Return the arguments of the forward pass that say which experts answer."""
        model_type, chosen = self._config.model_type, dict[str, Any]()
        if settings.expert is not None:
            place = self.expert_index(settings.expert)
            if model_type not in ARCHITECTURES:
                raise ConfigError(
                    f"{model_type}, a class of transformers, has no way to let one expert answer alone",
                    where="--expert",
                    remedy=f"leave --expert out, or take a mixture of {', '.join(sorted(ARCHITECTURES))}",
                )
            chosen["forced_expert"] = place
        if settings.mode is not None:
            if model_type != GATED:
                raise ConfigError(
                    f"{model_type} mixes experts for each token", where="--mode", remedy="leave --mode out"
                )
            chosen["mixture_mode"] = settings.mode
        return chosen

    def _ids(self, prompt: str, chat: bool | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prompt's token ids and their mask, both [1, T]."""
        tokenizer = self._loaded.tokenizer
        in_chat = self._usually_chat() if chat is None else chat
        if in_chat and tokenizer.chat_template is None:
            raise ConfigError("the tokenizer has no chat template", where="--chat", remedy="leave --chat out")
        text = chat_prompt(tokenizer, prompt) if in_chat else prompt
        ids = torch.tensor([tokenizer(text, add_special_tokens=not in_chat)["input_ids"]], dtype=torch.long)
        if not ids.numel():
            raise ConfigError("the prompt has no tokens", where="--prompt", remedy="ask something")
        ids = ids.to(self._loaded.device)
        return ids, torch.ones_like(ids)

    def _usually_chat(self) -> bool:
        """Say whether the gate was trained on prompts in the chat template."""
        if not (self._directory / CERTIFICATE_FILE).is_file():
            return False
        gate = read_certificate(self._directory).settings.get("gate")
        return isinstance(gate, dict) and gate.get("prompt_style") == "chat"

    def _require_room(self, num_tokens: int) -> None:
        if self._loaded.context_length is not None and num_tokens > self._loaded.context_length:
            raise ConfigError(
                f"prompt and answer take up to {num_tokens} tokens; the model reads {self._loaded.context_length}",
                where="--max-new-tokens",
                remedy="shorten the prompt, or ask for fewer tokens",
            )

    def _how(self, settings: GenerateSettings) -> Any:
        drawn = {"temperature": settings.temperature or 1.0, "top_p": settings.top_p or 1.0, "top_k": 0}
        return transformers.GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=settings.is_drawn,
            eos_token_id=sorted(self._loaded.eos_token_ids),
            pad_token_id=self._loaded.pad_token_id,
            **(drawn if settings.is_drawn else {}),
        )

    def _no_gate(self) -> str:
        top_k = getattr(self._config, "num_experts_per_tok", "some")
        chosen = f"{self._config.model_type} chooses {top_k} of {self.num_experts} experts"
        return f"no gate for the whole prompt: {chosen} for each token in each layer that has them"
