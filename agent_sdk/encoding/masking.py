"""Calling the user's masking function where it can do no harm: with a time limit, in a thread that may be given up."""

from __future__ import annotations

import _thread
import time
from typing import Any, Callable

from agent_sdk.encoding.json_codec import dumps, loads

_PATIENCE = 1.0
_REST_AFTER_A_HANG = 60.0


class MaskingError(Exception):
    """The masking function did not give a usable answer."""


class Mask:
    """Calls ``mask(field, value)``; after a call that hangs, fails at once for a minute instead of hanging again."""

    def __init__(self, mask: Callable[[str, Any], Any], patience: float = _PATIENCE) -> None:
        self._mask = mask
        self._patience = patience
        self._rest_until = 0.0

    def __call__(self, field: str, value: Any) -> Any:
        """The masked value; raises ``MaskingError`` where there is none."""
        if time.monotonic() < self._rest_until:
            raise MaskingError("the masking function hangs")
        call = _Call(self._mask, field, value)
        _thread.start_new_thread(call.run, ())
        if not call.done.acquire(True, self._patience):
            self._rest_until = time.monotonic() + _REST_AFTER_A_HANG
            raise MaskingError("the masking function hangs")
        if call.failed:
            raise MaskingError("the masking function failed")
        return loads(call.answer)


class _Call:
    """One call, in a thread of its own."""

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
