"""The messages of a request: roles and content, as turns of a chat."""

from collections.abc import Mapping
from typing import Any

from moe_ray.prompts.messages import Message, Prompt, Role
from moe_ray.serving.openai.checking import refused

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
TEXT_PARTS: Mapping[str, tuple[str, ...]] = {"messages": ("text",), "input": ("text", "input_text", "output_text")}
# Fields of a message that have no effect, and the values with which those that would have one ask for nothing.
_HARMLESS = {"role", "content", "id", "type", "status", "annotations", "phase"}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "tool_calls": (None, []),
    "tool_call_id": (None,),
    "function_call": (None,),
    "refusal": (None, ""),
    "audio": (None,),
    "prefix": (None, False),
    "partial": (None, False),
}


def messages_of(items: list[Any], field: str, ignored: list[str]) -> tuple[Message, ...]:
    """Return the turns that `field` (`messages` of a chat, `input` of a response) holds.

    Unknown fields of messages are added to `ignored`, as `messages.NAME`.
    Raises `ApiError` for content other than text, for a role of tools, and for a conversation that the assistant ends.
    """
    found = [_message(item, field, index, ignored) for index, item in enumerate(items)]
    messages = tuple(message for message in found if message is not None)
    if not messages:
        raise refused(field, f"{field} must hold at least one message")
    if messages[-1].role == "assistant":
        raise refused(field, f"the last of {field} is the assistant's: its answer cannot be continued", None)
    return messages


def user_turns(messages: tuple[Message, ...]) -> str | None:
    """Return what the router reads of a chat: the user's turns, by line; None where the user said nothing."""
    turns = [message.content for message in messages if message.role == "user"]
    return "\n".join(turns) if turns else None


def chat_prompt(messages: tuple[Message, ...], stop: tuple[str, ...] = ()) -> Prompt:
    """Return the prompt of a chat, whatever the model's own style."""
    return Prompt(messages=messages, stop=stop, style="chat")


def _message(item: Any, field: str, index: int, ignored: list[str]) -> Message | None:
    where = f"{field}[{index}]"
    if not isinstance(item, dict):
        raise refused(where, f"{where} must be an object", "invalid_type")
    if field == "input":
        kind = item.get("type")
        if kind == "reasoning":
            return None
        if kind not in ("message", None):
            raise refused(f"{where}.type", f"{where} must be a message", "unsupported_value")
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        raise refused(f"{where}.role", f"{where}.role must be one of {known}; tools are not supported")
    for name, value in item.items():
        if name in _NEUTRAL:
            _check_neutral(value, f"{where}.{name}", _NEUTRAL[name])
        elif name not in _HARMLESS:
            ignored.append(f"{field}.{name}")
    return Message(role=ROLES[role], content=_content(item.get("content"), f"{where}.content", TEXT_PARTS[field]))


def _check_neutral(value: Any, where: str, neutral: tuple[Any, ...]) -> None:
    if value not in neutral:
        raise refused(where, f"{where} is not supported; leave it out", "unsupported_parameter")


def _content(content: Any, where: str, kinds: tuple[str, ...]) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refused(where, f"{where} must be a string or a list of text parts", "invalid_type")
    return "\n".join(_part(part, f"{where}[{index}]", kinds) for index, part in enumerate(content))


def _part(part: Any, where: str, kinds: tuple[str, ...]) -> str:
    if not isinstance(part, dict):
        raise refused(where, f"{where} must be an object", "invalid_type")
    if part.get("type") not in kinds:
        known = "images, audio and files are not supported"
        raise refused(f"{where}.type", f"{where} is not text; {known}", "unsupported_value")
    text = part.get("text")
    if not isinstance(text, str):
        raise refused(f"{where}.text", f"{where}.text must be a string", "invalid_type")
    return text
