"""Calling the user's masking function where it can do no harm: with a time limit, in a thread that may be given up."""

from __future__ import annotations

import _thread
import os
import time
from typing import Any, Callable

from agent_sdk.encoding.json_codec import dumps, loads

_PATIENCE = 1.0
_REST_AFTER_A_HANG = 60.0


class MaskingError(Exception):
    """The masking function did not give a usable answer."""


class Mask:
    """Calls ``mask(field, value)``; after a call that hangs, fails at once for a minute instead of hanging again.

    Calls come from one thread at a time.
    """

    def __init__(self, mask: Callable[[str, Any], Any], patience: float = _PATIENCE) -> None:
        self._mask = mask
        self._patience = patience
        self._rest_until = 0.0
        self._helper: _Helper | None = None

    def __call__(self, field: str, value: Any) -> Any:
        """The masked value; raises ``MaskingError`` where there is none."""
        if time.monotonic() < self._rest_until:
            raise MaskingError("the masking function hangs")
        call = _Call(self._mask, field, value)
        self._hand_over(call)
        if not call.done.acquire(True, self._patience):
            self._rest_until = time.monotonic() + _REST_AFTER_A_HANG
            self._dismiss()
            raise MaskingError("the masking function hangs")
        if call.failed:
            raise MaskingError("the masking function failed")
        return loads(call.answer)

    def _hand_over(self, call: _Call) -> None:
        if self._helper is None or self._helper.pid != os.getpid():
            try:
                self._helper = _Helper()
            except RuntimeError:  # the interpreter is ending and gives no thread any more
                call.run()
                return
        self._helper.give(call)

    def _dismiss(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.give(None)

    def __del__(self) -> None:
        self._dismiss()


class _Helper:
    """A thread that makes one call after another. It does not keep its ``Mask`` alive, which ends it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._wanted = _thread.allocate_lock()
        self._wanted.acquire()
        self._calls: list[_Call | None] = []
        _thread.start_new_thread(self._run, ())

    def give(self, call: _Call | None) -> None:
        """Make ``call`` next; None ends the thread."""
        self._calls.append(call)
        if self._wanted.locked():
            self._wanted.release()

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            while self._calls:
                call = self._calls.pop(0)
                if call is None:
                    return
                call.run()


class _Call:
    def __init__(self, mask: Callable[[str, Any], Any], field: str, value: Any) -> None:
        self._mask = mask
        self._arguments = (field, value)
        self.done = _thread.allocate_lock()
        self.done.acquire()
        self.answer = b""
        self.failed = True

    def run(self) -> None:
        try:
            # Encoded here, because what the function returns may be as hostile as the function itself.
            self.answer = dumps(self._mask(*self._arguments))
            self.failed = False
        except BaseException:
            pass
        finally:
            self.done.release()
