"""Identities of runs and steps: random, unique across processes and forks, made without a lock."""

from __future__ import annotations

import os
import random
import time

from agent_sdk.encoding import type_name

_random = random.Random()
_LONGEST_FORM = 100
_HEXADECIMAL = frozenset("0123456789abcdef")


def reseed() -> None:
    """Begin a new random sequence: a forked child would otherwise repeat its parent's ids."""
    _random.seed(os.urandom(32))


def new_run_id() -> str:
    """A UUID (version 7: it begins with the time, so that ids sort by it)."""
    milliseconds = time.time_ns() // 1_000_000 & 0xFFFFFFFFFFFF
    bits = _random.getrandbits(74)
    low = bits & 0x3FFFFFFFFFFFFFFF | 0x8000000000000000
    head = f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7{bits >> 62:03x}"
    return f"{head}-{low >> 48:04x}-{low & 0xFFFFFFFFFFFF:012x}"


def new_step_id() -> int:
    """64 random bits, not all zero."""
    return _random.getrandbits(64) or 1


def as_run_id(value: object) -> str | None:
    """The run id that a caller means by a UUID or its text in any usual form; none if it is no id."""
    if type(value) is not str:
        # Only what is known to be harmless is asked for its text.
        value = str(value) if type_name(value) == "uuid.UUID" else ""
    if len(value) > _LONGEST_FORM:
        return None
    text = value.strip().lower().replace("urn:uuid:", "").strip("{}").replace("-", "")
    if len(text) != 32 or not _HEXADECIMAL.issuperset(text):
        return None
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=reseed)
