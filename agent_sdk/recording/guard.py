"""The one place where errors of the library itself end: nothing that tracks may raise into the program it watches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, TypeVar

from agent_sdk.delivery.log import say

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")
T = TypeVar("T")

#: How often the library has failed, by the name of the call.
failures: dict[str, int] = {}
_MAX_NAMES = 100


def note(where: str, error: BaseException) -> None:
    """Count an error of the library and say it once."""
    try:
        if where in failures or len(failures) < _MAX_NAMES:
            failures[where] = failures.get(where, 0) + 1
        say(f"{where}:{type(error).__name__}", f"{where} could not record something: {type(error).__name__}: {error}")
    except Exception:
        pass  # not even the message can be had: it is counted


def guarded(instead: Callable[..., Any]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function never raise: where it would, the answer is ``instead()`` of the same first argument.

    A call with arguments that the function does not know is made again without them.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                note(function.__name__, error)
                answer: T = _again(function, instead, args, kwargs)
                return answer

        for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__"):
            setattr(call, name, getattr(function, name))
        call.__wrapped__ = function  # type: ignore[attr-defined]
        return call

    return decorate


def _again(function: Any, instead: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    code = function.__code__
    known = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    try:
        if len(args) > code.co_argcount or not known.issuperset(kwargs):
            return function(*args[: code.co_argcount], **{name: kwargs[name] for name in kwargs if name in known})
    except Exception as error:
        note(function.__name__, error)
    return instead(args[0]) if args else instead()


def nothing(*_: Any) -> None:
    """What a guarded function without a result gives instead."""


def itself(handle: T) -> T:
    """What a guarded method that gives its own handle gives instead."""
    return handle
