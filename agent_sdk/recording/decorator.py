"""``@track``: a function that records each of its calls, and is otherwise the same function.

The outermost call becomes a run, calls inside it become steps. What a call returns decides how it is recorded: a
coroutine when it is awaited, a generator while it is consumed, anything else at once.
"""

from __future__ import annotations

import functools
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType
from typing import Any, Callable, Collection

from agent_sdk.recording import streams
from agent_sdk.recording.guard import note
from agent_sdk.recording.handle import Handle

_LAZY = 0x20 | 0x80 | 0x200  # inspect.CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR: calling runs nothing yet

#: Opens the handle of one call: (name, step type, input) -> a run or a step.
Begin = Callable[[str, str, Any], Handle]


def tracked(
    function: Any,
    begin: Begin,
    name: str | None,
    step_type: str,
    capture_input: bool,
    capture_output: bool,
    ignore: Collection[str],
) -> Any:
    """``function`` with its calls recorded through ``begin``. Raises ``TypeError`` for what cannot be called."""
    if not callable(function) and not isinstance(function, (staticmethod, classmethod)):
        raise TypeError(f"@track needs a function, not {type(function).__name__}")
    try:
        from agent_sdk.recording.wrapper import Tracked
    except ImportError as error:  # the interpreter is ending, or wrapt is broken
        note("track", error)
        return function
    call = _Call(_plain_function(function), begin, name, step_type, capture_input, capture_output, frozenset(ignore))
    return Tracked(function, call)


def _plain_function(function: Any) -> Any:
    """The function under ``staticmethod``, ``classmethod``, ``partial`` and decorators that name what they wrap."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif isinstance(function, (staticmethod, classmethod)):
            function = function.__func__
        else:
            return function


class _Call:
    """What happens around each call of one decorated function."""

    def __init__(
        self,
        function: Any,
        begin: Begin,
        name: str | None,
        step_type: str,
        capture_input: bool,
        capture_output: bool,
        ignore: frozenset[str],
    ) -> None:
        own = getattr(function, "__code__", None)
        code = own or getattr(getattr(type(function), "__call__", None), "__code__", None)  # noqa: B004
        self._parameters = _Parameters(code) if isinstance(code, CodeType) else None
        self._is_object = own is None
        self._lazy = bool(isinstance(code, CodeType) and code.co_flags & _LAZY)
        self._begin = begin
        self._name = name if name is not None else getattr(function, "__name__", None) or type(function).__name__
        self._step_type = step_type
        self._capture_input = capture_input
        self._capture_output = capture_output
        self._ignore = ignore

    def __call__(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._lazy:
            return self._recorded(wrapped(*args, **kwargs), lambda: self._open(instance, args, kwargs))
        handle = self._open(instance, args, kwargs)
        handle.__enter__()
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            handle.fail(error)
            raise
        if type(result) in _STREAMS:
            handle._leave()
            return self._recorded(result, lambda: handle)
        if self._capture_output:
            handle.set_output(result)
        handle.__exit__(None, None, None)
        return result

    def _recorded(self, result: Any, begin: Callable[[], Handle]) -> Any:
        kind = type(result)
        if kind is GeneratorType:
            return streams.recorded_generator(begin, result, self._capture_output)
        if kind is AsyncGeneratorType:
            return streams.recorded_async_generator(begin, result, self._capture_output)
        if kind is CoroutineType:
            return streams.recorded_coroutine(begin, result, self._capture_output)
        return result

    def _open(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Handle:
        given = None
        try:
            if self._capture_input:
                given = self._named_arguments(instance, args, kwargs)
        except Exception as error:
            note("track", error)
        return self._begin(self._name, self._step_type, given)

    def _named_arguments(self, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if self._parameters is not None:
            bound = instance is not None or self._is_object
            named = {**self._parameters.name(args, bound), **kwargs}
        else:
            named = {**({"args": list(args)} if args else {}), **kwargs}
        for name in self._ignore:
            named.pop(name, None)
        return named


_STREAMS = (GeneratorType, AsyncGeneratorType, CoroutineType)


class _Parameters:
    """The names of a function's positional parameters: all that is needed to name the arguments of a call."""

    __slots__ = ("_names", "_rest")

    def __init__(self, code: CodeType) -> None:
        self._names = code.co_varnames[: code.co_argcount]
        after = code.co_argcount + code.co_kwonlyargcount
        self._rest = code.co_varnames[after] if code.co_flags & 0x04 else "args"  # inspect.CO_VARARGS

    def name(self, args: tuple[Any, ...], bound: bool) -> dict[str, Any]:
        """Positional arguments by name; ``self`` or ``cls``, which is not among them where ``bound``, is left out."""
        names = self._names[1:] if bound else self._names
        named = dict(zip(names, args))
        if names[:1] in (("self",), ("cls",)):
            # Python 3.8 and 3.13 do not bind what is under `@classmethod`; they pass the class as an argument.
            named.pop(names[0], None)
        if len(args) > len(names):
            named[self._rest] = list(args[len(names) :])
        return named
