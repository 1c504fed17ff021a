"""Coroutines, generators and asynchronous generators that record themselves while somebody else consumes them.

The ambient context is set before each resume and put back after it, in the context that resumes: what the generator
itself has opened is kept here meanwhile. So a stream may be consumed by another task or thread, and a consumer never
finds itself inside a stream that it merely reads.
"""

from __future__ import annotations

from typing import Any, AsyncGenerator, Callable, Coroutine, Generator

from agent_sdk.encoding import NODE_SIZE, snapshot
from agent_sdk.recording.context import current
from agent_sdk.recording.guard import note
from agent_sdk.recording.handle import Handle

_MAX_ITEMS = 1_000
_MAX_CHARACTERS = 65_000  # leaves room for the marker in one text


class Joined:
    """What a stream has produced so far, bounded: text is joined, other items are kept as a list."""

    __slots__ = ("_characters", "_items", "_left_out", "_only_text")

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._characters = 0
        self._left_out = 0
        self._only_text = True

    def add(self, item: Any) -> None:
        """Take one item as it is now."""
        if len(self._items) >= _MAX_ITEMS or self._characters >= _MAX_CHARACTERS:
            self._left_out += 1
            return
        if type(item) is str:
            self._characters += len(item)
            self._items.append(item)
        else:
            data, size = snapshot(item)
            self._only_text = False
            self._characters += size - NODE_SIZE
            self._items.append(data)
        if self._only_text and len(self._items) == _MAX_ITEMS:
            self._items = ["".join(self._items)]

    def __bool__(self) -> bool:
        return bool(self._items)

    def everything(self) -> Any:
        """Text, or a list."""
        if self._only_text:
            text = "".join(self._items)
            return f"{text}…[cut {self._left_out} items]" if self._left_out else text
        return [*self._items, {"$cut": "items", "length": self._left_out}] if self._left_out else self._items


class _Stream:
    """The recording of one stream: its handle, what it produced, and what is current inside it."""

    __slots__ = ("_begin", "_handle", "_inside", "_output", "_outside")

    def __init__(self, begin: Callable[[], Handle]) -> None:
        self._begin = begin
        self._handle: Handle | None = None
        self._inside: Any = None
        self._outside: Any = None
        self._output: Joined | None = None

    def enter(self) -> None:
        """Before a resume."""
        try:
            if self._handle is None:
                self._handle = self._inside = self._begin()
            self._outside = current.get()
            current.set(self._inside)
        except Exception as error:
            note("stream", error)

    def leave(self) -> None:
        """After a resume."""
        self._inside = current.get()
        current.set(self._outside)
        self._outside = None

    def produced(self, item: Any, capture: bool) -> None:
        """Record an item that the consumer is about to get."""
        try:
            if self._output is None:
                self._output = Joined()
                self._handle.first_token()  # type: ignore[union-attr]
            if capture:
                self._output.add(item)
        except Exception as error:
            note("stream", error)

    def end(self, error: BaseException | None = None) -> None:
        """The stream is over, by itself or by ``error``. Only the first call counts."""
        handle = self._handle
        if handle is None or handle.ended:
            return
        try:
            if self._output:
                handle.set_output(self._output.everything())
        except Exception as failure:
            note("stream", failure)
        if error is None:
            handle.end()
        else:
            handle.fail(error)

    def __del__(self) -> None:
        # An asynchronous generator without an event loop is dropped without a word.
        self.end(GeneratorExit())


class _Held:
    """Closes a coroutine that is never awaited: Python complains of ours alone, and only if nobody closed that."""

    __slots__ = ("coroutine",)

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.coroutine = coroutine

    def __del__(self) -> None:
        self.coroutine.close()


def recorded_coroutine(begin: Callable[[], Handle], coroutine: Coroutine[Any, Any, Any], capture: bool) -> Any:
    """``coroutine``, recorded from the moment that it is first awaited."""

    held = _Held(coroutine)

    async def recorded() -> Any:
        stream = _Stream(begin)
        stream.enter()
        try:
            result = await held.coroutine
        except BaseException as error:
            stream.leave()
            stream.end(error)
            raise
        stream.leave()
        if capture and stream._handle is not None:
            stream._handle.set_output(result)
        stream.end()
        return result

    return _renamed(recorded(), coroutine)


def recorded_generator(begin: Callable[[], Handle], generator: Generator[Any, Any, Any], capture: bool) -> Any:
    """``generator``, recorded from the first ``next`` to its end, whoever brings that about."""

    def recorded() -> Generator[Any, Any, Any]:
        stream = _Stream(begin)
        resume: Callable[..., Any] = generator.__next__
        arguments: tuple[Any, ...] = ()
        while True:
            stream.enter()
            try:
                item = resume(*arguments)
            except StopIteration as stop:
                stream.leave()
                stream.end()
                return stop.value
            except BaseException as error:
                stream.leave()
                stream.end(error)
                raise
            stream.leave()
            stream.produced(item, capture)
            # What is thrown in must reach the inner generator outside of our `except`, or it would become its context.
            thrown: BaseException | None = None
            sent = None
            try:
                sent = yield item
            except GeneratorExit as error:
                _close(stream, generator, error)
                raise
            except BaseException as error:
                thrown = error
            if thrown is not None:
                resume, arguments = generator.throw, (thrown,)
            else:
                resume, arguments = (generator.__next__, ()) if sent is None else (generator.send, (sent,))
            del thrown

    return _renamed(recorded(), generator)


def _close(stream: _Stream, generator: Generator[Any, Any, Any], reason: GeneratorExit) -> None:
    stream.enter()
    try:
        generator.close()
    except BaseException as error:
        stream.leave()
        stream.end(error)
        raise
    stream.leave()
    stream.end(reason)


def recorded_async_generator(begin: Callable[[], Handle], generator: AsyncGenerator[Any, Any], capture: bool) -> Any:
    """``generator``, recorded from the first ``__anext__`` to its end, whoever brings that about."""

    async def recorded() -> AsyncGenerator[Any, Any]:
        stream = _Stream(begin)
        resume: Callable[..., Any] = generator.__anext__
        arguments: tuple[Any, ...] = ()
        while True:
            stream.enter()
            try:
                item = await resume(*arguments)
            except StopAsyncIteration:
                stream.leave()
                stream.end()
                return
            except BaseException as error:
                stream.leave()
                stream.end(error)
                raise
            stream.leave()
            stream.produced(item, capture)
            thrown: BaseException | None = None
            sent = None
            try:
                sent = yield item
            except GeneratorExit as error:
                await _aclose(stream, generator, error)
                raise
            except BaseException as error:
                thrown = error
            if thrown is not None:
                resume, arguments = generator.athrow, (thrown,)
            else:
                resume, arguments = generator.asend, (sent,)
            del thrown

    return _renamed(recorded(), generator)


async def _aclose(stream: _Stream, generator: AsyncGenerator[Any, Any], reason: GeneratorExit) -> None:
    stream.enter()
    try:
        await generator.aclose()
    except BaseException as error:
        stream.leave()
        stream.end(error)
        raise
    stream.leave()
    stream.end(reason)


def _renamed(recorded: Any, original: Any) -> Any:
    recorded.__name__ = original.__name__
    recorded.__qualname__ = original.__qualname__
    return recorded
