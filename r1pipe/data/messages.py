"""Conversations as data sets hold them, read into `records.Message`.

The names are those of OpenAI's chat format (role, content, reasoning_content, tool_calls), of
ShareGPT (from, value) and of what LLaMA-Factory, axolotl and TRL read besides. What has no place in
a chat template stays as text: a tool call as `<tool_call>` JSON `</tool_call>`, a tool's result as
`<tool_response>`, tool descriptions as `<tools>` at the end of the system message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from r1pipe.chat import THINK_OPEN, render_completion
from r1pipe.records import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "call",
    "tool_call": "call",
    "tool": "tool",
    "tool_response": "tool",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "ipython": "tool",
}
"""How data sets call whoever speaks."""
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
CONTENT_KEYS = ("content", "value", "text")
ROLE_KEYS = ("role", "from")
MAX_REASON_CHARS = 40
_KINDS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("true or false", (bool,)),
    ("a number", (int, float)),
    ("text", (str,)),
    ("bytes", (bytes, bytearray)),
    ("a mapping", (Mapping,)),
    ("a list", (Sequence,)),
)


class BadRow(Exception):  # noqa: N818 - what it says is a reason to leave a row out
    """Why a row cannot be trained on, in words that are the same for all rows of that fault."""


def text_of(value: object, name: str, *, may_be_empty: bool = False) -> str:
    """Return a value that has to be text, or raise BadRow with what it is instead."""
    if not isinstance(value, str):
        raise BadRow(f"{name} is {kind_of(value)}, not text")
    if not may_be_empty and not value.strip():
        raise BadRow(f"{name} is empty")
    if _has_lone_surrogate(value):
        raise BadRow(f"{name} has half of a surrogate pair, which no encoding can write")
    return value


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def kind_of(value: object) -> str:
    """Say what a value is.

    >>> [kind_of(value) for value in (None, float("nan"), 3, True, [1], {}, b"a")]
    ['null', 'NaN', 'a number', 'true or false', 'a list', 'a mapping', 'bytes']
    """
    if value is None:
        return "null"
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return next((name for name, types in _KINDS if isinstance(value, types)), "something else")


def with_thought(thought: object, content: str) -> str:
    """Return what the assistant says, its thought first, in the tags of the chat format.

    No thought, an empty one, or one that the content holds already changes nothing.
    """
    if not isinstance(thought, str) or not thought.strip() or THINK_OPEN in content:
        return content
    if THINK_OPEN in thought:  # the tags are in the column already
        return f"{thought.rstrip()}\n\n{content.lstrip()}"
    return render_completion(thought.strip("\n"), content.lstrip("\n"), "chat")


def context_of(value: object, name: str, system: object = None) -> list[Message]:
    """Return what comes before an answer: one user's text, or the messages up to it."""
    if not _is_messages(value):
        return with_system([Message("user", text_of(value, name))], system)
    messages = read_messages(value, name)
    if not messages or messages[-1].role == "assistant":
        raise BadRow(f"{name} does not end with what the user says")
    return with_system(messages, system)


def answer_of(value: object, name: str) -> str:
    """Return the assistant's text, given as text, as a message or as a list of one."""
    if not _is_messages(value):
        return text_of(value, name)
    messages = read_messages([value] if isinstance(value, Mapping) else value, name)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise BadRow(f"{name} is not one message of the assistant")
    return text_of(messages[0].content, name)


def conversation_of(
    value: object, name: str, system: object = None, tools: object = None
) -> list[Message]:
    """Return a whole conversation, which ends with the assistant; raise BadRow for any other."""
    messages = with_system(read_messages(value, name), system, tools)
    turns = [each.role for each in messages if each.role != "system"]
    if "assistant" not in turns:
        raise BadRow(f"{name} has no turn of the assistant")
    if turns[-1] != "assistant":
        raise BadRow(f"{name} does not end with the assistant")
    if turns[0] == "assistant":
        raise BadRow(f"{name} begins with the assistant")
    return messages


def read_messages(value: object, name: str) -> list[Message]:
    """Return a list of messages, or JSON text of one, as turns with text; raise BadRow."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise BadRow(f"{name} is text, not a list of messages") from None
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        raise BadRow(f"{name} is {kind_of(value)}, not a list of messages")
    if not value:
        raise BadRow(f"{name} is empty")
    return _joined(_message(each, name) for each in value)


def with_system(messages: list[Message], system: object, tools: object = None) -> list[Message]:
    """Return messages with a system text and descriptions of tools from columns of their own."""
    text = "" if system is None else text_of(system, "system", may_be_empty=True).strip()
    if tools not in (None, "", []):
        described = tools if isinstance(tools, str) else _json(tools)
        text = f"{text}\n\n<tools>\n{described}\n</tools>".strip()
    if not text:
        return messages
    if messages[0].role == "system":
        if messages[0].content.strip() == text:
            return messages
        return [Message("system", f"{text}\n\n{messages[0].content}".strip()), *messages[1:]]
    return [Message("system", text), *messages]


def _is_messages(value: object) -> bool:
    """Return whether a value may be a message or a list of them; else it has to be text."""
    return isinstance(value, (Mapping, list, tuple))


def _message(value: object, name: str) -> tuple[str, Message]:
    """Return the kind of a turn, and its message."""
    if not isinstance(value, Mapping):
        raise BadRow(f"{name} holds {kind_of(value)}, not a message")
    given = next((value[key] for key in ROLE_KEYS if value.get(key) is not None), None)
    role = ROLES.get(given.strip().lower()) if isinstance(given, str) else None
    if role is None:
        shown = repr(given)[:MAX_REASON_CHARS] if isinstance(given, str) else kind_of(given)
        raise BadRow(f"a message of {name} has the unknown role {shown}")
    text = _content(value, name, role)
    if role == "call":
        return role, Message("assistant", f"<tool_call>\n{text}\n</tool_call>")
    if role == "tool":
        return role, Message("user", f"<tool_response>\n{text}\n</tool_response>")
    return role, Message(role, text, _is_trained(value))


def _content(value: Mapping[str, object], name: str, role: str) -> str:
    """Return a message's text with its thought and tool calls."""
    content = next((value[key] for key in CONTENT_KEYS if value.get(key) is not None), None)
    calls = value.get("tool_calls") or value.get("function_call")
    what = f"a message of {name}"
    if content is None and calls:
        content = ""
    if isinstance(content, Sequence) and not isinstance(content, (str, bytes, bytearray)):
        content = "".join(_part(part, what) for part in content)
    text = text_of(content, what, may_be_empty=bool(calls) or role in ("system", "tool"))
    if role != "assistant":
        return text
    thoughts = (value[key] for key in THOUGHT_KEYS if value.get(key) is not None)
    said = "\n".join(filter(None, (text, *map(_call, _listed(calls)))))
    return with_thought(next(thoughts, None), said)


def _part(part: object, what: str) -> str:
    """Return the text of one part of a content that is a list."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping) and isinstance(text := part.get("text"), str):
        return text
    raise BadRow(f"{what} has a part that is not text")


def _listed(calls: object) -> list[object]:
    if not calls:
        return []
    return list(calls) if isinstance(calls, (list, tuple)) else [calls]


def _call(call: object) -> str:
    """Return a tool call as text; its arguments may be JSON text already."""
    function = call.get("function", call) if isinstance(call, Mapping) else call
    if isinstance(function, Mapping):
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            with suppress(ValueError):
                arguments = json.loads(arguments)
        function = {"name": function.get("name"), "arguments": arguments}
    return f"<tool_call>\n{_json(function)}\n</tool_call>"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _is_trained(value: Mapping[str, object]) -> bool:
    """Return whether a message may be trained (OpenAI's `weight`, axolotl's `train`)."""
    return value.get("weight") != 0 and value.get("train") is not False


def _joined(turns: Iterable[tuple[str, Message]]) -> list[Message]:
    """Return the messages; results of several tools become one turn, as do calls with an answer."""
    joined: list[Message] = []
    before = ""
    for kind, message in turns:
        is_same = joined and joined[-1].role == message.role
        if is_same and ("tool" in (kind, before) or "call" in (kind, before)):
            last = joined.pop()
            text = f"{last.content}\n{message.content}"
            message = Message(message.role, text, last.is_trained and message.is_trained)
        joined.append(message)
        before = kind
    return joined
