"""From a prompt to token ids: chat templates, completions, continuations, and what happens to overlong prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jinja2

from moe_ray.config.schema import ModelConfig
from moe_ray.errors import ModelError
from moe_ray.prompts.messages import Message, Prompt
from moe_ray.prompts.reasoning import splitter_of

TEMPLATE_DATE = "26 Jul 2024"
REFUSED = "the chat template refuses this prompt"


class PromptTokenizer(Protocol):
    """A model's tokenizer and the numbers that decide how prompts fit."""

    @property
    def tokenizer(self) -> Any: ...
    @property
    def pad_token_id(self) -> int: ...
    @property
    def context_length(self) -> int | None: ...
    @property
    def vocabulary_size(self) -> int: ...


class RowError(Exception):
    """One row cannot be answered. It becomes that row's error, and never leaves the engine."""

    def __init__(self, reason: str, num_prompt_tokens: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.num_prompt_tokens = num_prompt_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A prompt's tokens as they fit the context, and how many were cut from its left.

    `opens_trace` says that the prompt ends with the mark that opens a reasoning trace.
    """

    token_ids: tuple[int, ...]
    num_truncated: int = 0
    opens_trace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPair:
    """The tokens of a context, and of each continuation after it. `fitting` are the places of those that fit there."""

    context: EncodedPrompt
    continuations: tuple[tuple[int, ...], ...]
    fitting: tuple[int, ...]


class PromptEncoder:
    """Turns prompts into token ids, in the model's prompt style.

    chat: `chat_text`, with the model's `chat_template_kwargs` as variables of the template; no other special tokens
    are added, since the template writes its own. completion: the raw text, with the special tokens that the tokenizer
    puts in front by itself.
    """

    def __init__(self, loaded: PromptTokenizer, config: ModelConfig) -> None:
        self._tokenizer = loaded.tokenizer
        self._context_length = loaded.context_length
        self._vocabulary_size = loaded.vocabulary_size
        self._is_chat = config.prompt_style == "chat"
        known = (loaded.tokenizer.bos_token_id, loaded.tokenizer.eos_token_id)
        self._start_token_id = next((one for one in known if one is not None), loaded.pad_token_id)
        self._truncates = config.overflow == "truncate_left"
        self._splitter = splitter_of(config)
        self._switches = dict(config.chat_template_kwargs)
        self._require_known_switches(config.path)

    def encode(self, prompt: Prompt, num_new_tokens: int) -> EncodedPrompt:
        """Return the prompt's tokens, leaving room for `num_new_tokens`; raises `RowError` when there is none."""
        if prompt.token_ids:
            return self._fitted(self._known(list(prompt.token_ids)), num_new_tokens)
        text = self.text(prompt)
        fitted = self._fitted(self._tokens(text, prompt), num_new_tokens)
        return replace(fitted, opens_trace=self._splitter.is_opened_by(text))

    def token_ids(self, prompt: Prompt, *, add_special_tokens: bool = True) -> list[int]:
        """Return the tokens of a prompt of any length. A chat's special tokens are those of its template."""
        if prompt.token_ids:
            return list(prompt.token_ids)
        if add_special_tokens or self._chats(prompt):
            return self._tokens(self.text(prompt), prompt)
        tokens: list[int] = self._tokenizer(self.text(prompt), add_special_tokens=False)["input_ids"]
        return tokens

    def encode_pair(self, prompt: Prompt) -> EncodedPair:
        """Return the tokens of the prompt and of each of its continuations.

        White space at the context's end is moved to the continuations; a continuation's tokens are those of context
        and continuation together, less as many as the context has by itself. Raises `RowError` when none of them fits.
        """
        if not prompt.continuations:
            raise RowError("the prompt has no continuations to measure")
        text = self.text(prompt)
        context = self._tokens(text.rstrip(), prompt)
        continuations = [tuple(self._tokens(text + one, prompt)[len(context) :]) for one in prompt.continuations]
        for spelled, tokens in zip(prompt.continuations, continuations, strict=True):
            if not tokens:
                raise RowError(f"continuation {spelled!r} has no tokens of its own", len(context))
        # A continuation's last token is predicted, never read.
        reads = [len(tokens) - 1 for tokens in continuations]
        fitting = [place for place, num_read in enumerate(reads) if self._fits(context, num_read)]
        longest = max((reads[place] for place in fitting), default=min(reads))
        return EncodedPair(
            context=self._fitted(context, longest), continuations=tuple(continuations), fitting=tuple(fitting)
        )

    def text(self, prompt: Prompt) -> str:
        """Return the whole text that the model is given."""
        if not self._chats(prompt):
            return "".join(message.content for message in prompt.messages)
        return chat_text(self._tokenizer, prompt.messages, self._switches)

    def _require_known_switches(self, path: str) -> None:
        """A template ignores a variable that it does not know: a misspelt switch would change nothing."""
        unknown = [name for name in self._switches if name not in str(self._tokenizer.chat_template)]
        if unknown:
            raise ModelError(
                f"the chat template has no variable {', '.join(unknown)}",
                where=f"model {path}",
                remedy="check the spelling in chat_template_kwargs, or remove it",
            )

    def _chats(self, prompt: Prompt) -> bool:
        return self._is_chat if prompt.style is None else prompt.style == "chat"

    def _tokens(self, text: str, prompt: Prompt) -> list[int]:
        tokens: list[int] = self._tokenizer(text, add_special_tokens=not self._chats(prompt))["input_ids"]
        eos = self._tokenizer.eos_token
        if tokens and eos and tokens[-1] == self._tokenizer.eos_token_id and not text.endswith(eos):
            tokens = tokens[:-1]
        return self._known(tokens)

    def _known(self, tokens: list[int]) -> list[int]:
        if max(tokens, default=0) >= self._vocabulary_size:
            raise RowError(f"token {max(tokens)}, but the model knows {self._vocabulary_size}", len(tokens))
        return tokens

    def _fits(self, tokens: list[int], num_following: int) -> bool:
        """Say whether `num_following` tokens find room after `tokens`, cut from the left where that is allowed."""
        limit = self._context_length
        if limit is None or max(1, len(tokens)) + num_following <= limit:
            return True
        return self._truncates and limit - num_following - len(self._head(tokens)) >= 1

    def _head(self, tokens: list[int]) -> list[int]:
        """The begin token, which stays when a prompt is cut."""
        return tokens[:1] if tokens and tokens[0] == self._tokenizer.bos_token_id else []

    def _fitted(self, tokens: list[int], num_following: int) -> EncodedPrompt:
        """Return `tokens` as they fit the context; a model that is given nothing starts from its begin token."""
        if not self._fits(tokens, num_following):
            raise RowError(
                f"the prompt has {len(tokens)} tokens and {num_following} may follow, "
                f"but the context holds {self._context_length}",
                len(tokens),
            )
        if not tokens:
            return EncodedPrompt(token_ids=(self._start_token_id,))
        if self._context_length is None or len(tokens) + num_following <= self._context_length:
            return EncodedPrompt(token_ids=tuple(tokens))
        head = self._head(tokens)
        num_kept = self._context_length - num_following - len(head)
        kept = (*head, *tokens[-num_kept:])
        return EncodedPrompt(token_ids=kept, num_truncated=len(tokens) - len(kept))


def chat_text(tokenizer: Any, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> str:
    """Return what a chat model reads for `messages`: its tokenizer's template, with the assistant's turn opened.

    A template that refuses the system role, or leaves it out, gets the system text in front of the first user message.
    Templates that print today's date are given a fixed one. `variables` are further ones of the template. Raises
    `RowError` for messages that the template refuses.
    """
    given = tuple(messages)
    try:
        rendered = _rendered(tokenizer, given, variables)
        is_whole = all(one.role != "system" or one.content.strip() in rendered for one in given)
    except jinja2.TemplateError as error:
        if _system_merged(given) == given:
            raise RowError(f"{REFUSED}: {error}") from error
        rendered, is_whole = "", False
    if is_whole:
        return rendered
    try:
        return _rendered(tokenizer, _system_merged(given), variables)
    except jinja2.TemplateError as error:
        raise RowError(f"{REFUSED}: {error}") from error


def _rendered(tokenizer: Any, messages: Sequence[Message], variables: Mapping[str, Any] | None) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    given = {"date_string": TEMPLATE_DATE, **(variables or {})}
    text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **given)
    return text


def _system_merged(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return `messages` with the system's text in front of the first user message; unchanged when there is none."""
    system = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    first_user = next((index for index, message in enumerate(others) if message.role == "user"), None)
    if not system or first_user is None:
        return messages
    content = "\n\n".join([*system, others[first_user].content])
    others[first_user] = Message(role="user", content=content)
    return tuple(others)
