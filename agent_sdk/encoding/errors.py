"""What a record says about an exception: its type, its message and where it came from, bounded, without source code.

The lines of the stack name file, line and function. Their text is left out, because to read it is to open files in the
caller's thread.
"""

from __future__ import annotations

from typing import Any, Iterator

from agent_sdk.encoding.adapters import is_a, type_name

_MAX_MESSAGE = 8_192
_MAX_STACK = 16_384
_MOST = {"type": 1024, "message": _MAX_MESSAGE, "stack": _MAX_STACK}
_FIRST_FRAMES = 10
_LAST_FRAMES = 40
_MAX_CHAIN = 8


def describe_error(error: Any) -> dict[str, str]:
    """``{"type", "message", "stack"}`` of an exception, or as much of it as ``error`` tells.

    A mapping with these keys is taken at its word, and text is a message. Never raises, keeps nothing alive.
    """
    try:
        if is_a(error, BaseException):
            return _described(error)
        if type(error) is dict:
            known = {key: str(error[key]) for key in _MOST if error.get(key) is not None}
            return {key: _clean(text, _MOST[key]) for key, text in known.items()} or {"message": type_name(error)}
        return {"message": _clean(error, _MAX_MESSAGE) if type(error) is str else _message(error)}
    except Exception:
        return {"type": type_name(error)}


def _described(error: BaseException) -> dict[str, str]:
    return {"type": type_name(error), "message": _message(error), "stack": _clean(_stack(error), _MAX_STACK)}


def _message(error: Any) -> str:
    try:
        return _clean(str(error), _MAX_MESSAGE)
    except Exception as failure:
        return f"[its message cannot be read: {type_name(failure)}]"


def _clean(text: str, room: int) -> str:
    if len(text) > room:
        text = f"{text[:room]}…[cut {len(text) - room} characters]"
    return text.encode("utf-8", "replace").decode()


def _stack(error: BaseException) -> str:
    """Innermost cause first, as Python prints it."""
    parts = []
    for link, relation in _chain(error):
        header = "" if link is error else f"{type_name(link)}: {_message(link)[:500]}\n{relation}\n"
        parts.append("\n".join(_frames(link)) + "\n" + header)
    return "\n".join(reversed(parts)).strip("\n")


def _chain(error: BaseException) -> Iterator[tuple[BaseException, str]]:
    link: Any = error
    relation = ""
    seen: set[int] = set()
    while link is not None and id(link) not in seen and len(seen) < _MAX_CHAIN:
        seen.add(id(link))
        yield link, relation
        cause = BaseException.__dict__["__cause__"].__get__(link)
        suppressed = BaseException.__dict__["__suppress_context__"].__get__(link)
        relation = "which was the cause of:" if cause is not None else "and while that was handled:"
        link = cause if cause is not None or suppressed else BaseException.__dict__["__context__"].__get__(link)


def _frames(error: BaseException) -> list[str]:
    lines = []
    traceback = BaseException.__dict__["__traceback__"].__get__(error)
    while traceback is not None:
        code = traceback.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {traceback.tb_lineno}, in {code.co_name}')
        traceback = traceback.tb_next
        if len(lines) > _FIRST_FRAMES + 2 * _LAST_FRAMES:
            del lines[_FIRST_FRAMES : _FIRST_FRAMES + _LAST_FRAMES]
    if len(lines) > _FIRST_FRAMES + _LAST_FRAMES:
        lines[_FIRST_FRAMES:-_LAST_FRAMES] = ["  …"]
    return lines
