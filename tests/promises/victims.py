"""Programs that record and are killed while they do, and what they can prove about themselves afterwards."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

_ENTRY = struct.Struct("<q")

#: Records steps as fast as asked and writes down, outside the library, when each of them was finished.
_VICTIM = """
import os, struct, sys, time
import agent_sdk

diary = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
steps, pause = int(sys.argv[2]), float(sys.argv[3])
tracker = agent_sdk.create_tracker()
run = tracker.start_run("victim", input_data={"purpose": "to be killed"})
print(run, flush=True)
number = 0
while number < steps:
    with tracker.track_step_context(f"step {number}", "tool_call", input_data={"number": number}) as step:
        step.set_output({"text": "x" * 200})
    os.write(diary, struct.pack("<q", time.monotonic_ns()))
    number += 1
    if pause:
        time.sleep(pause)
print("all recorded", flush=True)
sys.stdin.read()
"""


class Victim:
    """A recording process; ``kill`` ends it without a chance to say goodbye."""

    def __init__(self, folder: Path, environment: dict[str, str], steps: int, pause: float = 0.0) -> None:
        self._diary = folder / f"diary-{os.urandom(4).hex()}"
        self.killed_at = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, str(self._diary), str(steps), str(pause)],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.run_id = self._process.stdout.readline().strip()

    def wait_until_all_recorded(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == "all recorded"

    def wait_until_recorded(self, steps: int, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while len(self.finished_at()) < steps:
            assert time.monotonic() < deadline, "the victim does not get on"
            assert self._process.poll() is None, "the victim died by itself"

    def wait_until_older_than(self, milliseconds: float) -> None:
        """Wait until the last step is so old."""
        while time.monotonic_ns() < self.finished_at()[-1] + int(milliseconds * 1_000_000):
            pass

    def kill(self) -> None:
        self.killed_at = time.monotonic_ns()
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def finished_at(self) -> list[int]:
        """When each step was finished (``time.monotonic_ns``)."""
        try:
            return [at for (at,) in _ENTRY.iter_unpack(self._diary.read_bytes())]
        except FileNotFoundError:
            return []

    def finished_before_kill(self, milliseconds: float) -> int:
        limit = self.killed_at - int(milliseconds * 1_000_000)
        return sum(at < limit for at in self.finished_at())

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *_: object | None) -> None:
        if self._process.poll() is None:
            self.kill()
