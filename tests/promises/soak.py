"""A soak: several processes record for a long time while everything around them fails, and the books must balance.

    python -m tests.promises.soak --minutes 60 --rate 1000

Workers record runs of steps at a steady rate through a proxy that refuses, hangs, drips, cuts and lies, to a real
collector that is killed and started again. Workers are killed, too, and others take their places. Each worker counts
its finished steps in shared memory, outside of the library. At the end the faults stop, what is left on the disk is
pushed, and the collector's database is compared with the counts: every record of every stream was stored once, or is
named in a loss.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.collector import wait_for
from tests.support.faulty_proxy import FAULTS, PASS, FaultyProxy, free_port, wait_for_port

_WORKER = """
import logging, mmap, os, signal, sys, threading, time
import agent_sdk

class Lines(logging.Handler):
    count = 0
    def emit(self, record):
        Lines.count += 1

logging.getLogger("agent_sdk").addHandler(Lines())
counter, rate = sys.argv[1], float(sys.argv[2])
descriptor = os.open(counter, os.O_RDWR)
view = memoryview(mmap.mmap(descriptor, 4096)).cast("Q")
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
tracker = agent_sdk.create_tracker(journal_bytes=2 << 30)
begin, number, slowest = time.monotonic(), 0, 0.0
while not stop.is_set():
    with tracker.track_run("soak", input_data={"n": number}):
        for _ in range(50):
            start = time.perf_counter()
            with tracker.track_step_context(f"step {number}", "tool_call", input_data={"n": number}) as step:
                step.set_output({"text": "x" * 40})
            view[0] += 1
            number += 1
            view[1] = max(view[1], int((time.perf_counter() - start) * 1e6))
    view[2] = Lines.count
    view[3] = len(sys._current_frames())
    ahead = begin + number / rate - time.monotonic()
    if ahead > 0:
        time.sleep(ahead)
result = tracker.close(10)
view[4] = 1 if result.balanced else 2
"""


class Worker:
    """A recording process with counters that outlive it."""

    def __init__(self, folder: Path, environment: dict[str, str], rate: float) -> None:
        path = folder / f"counter-{os.urandom(6).hex()}"
        path.write_bytes(bytes(4096))
        with path.open("r+b") as file:
            self._view = memoryview(mmap.mmap(file.fileno(), 4096)).cast("Q")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(path), str(rate)], env=environment, stderr=subprocess.PIPE, text=True
        )
        self.memory: list[int] = []

    steps = property(lambda self: self._view[0])
    slowest = property(lambda self: self._view[1])
    log_lines = property(lambda self: self._view[2])
    threads = property(lambda self: self._view[3])
    balanced = property(lambda self: {0: None, 1: True, 2: False}[self._view[4]])

    def look(self) -> None:
        """Note how much memory the process takes, in bytes."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
            self.memory.append(pages * 4096)
        except (OSError, IndexError):
            pass

    def end(self, how: int) -> str:
        """End the process; returns what it wrote to stderr."""
        self.process.send_signal(how)
        return self.process.communicate(timeout=60)[1]


class Soak:
    """One soak. ``report`` holds the figures afterwards, ``problems`` what must not have happened."""

    def __init__(
        self, minutes: float, rate: float, workers: int = 3, seed: int = 1, quiet: bool = False, pause: float = 4.0
    ) -> None:
        self._seconds = minutes * 60
        self._rate = rate / workers
        self._number = workers
        self._random = random.Random(seed)
        self._quiet = quiet
        self._longest_pause = pause
        self._folder = Path(tempfile.mkdtemp(prefix="agent-sdk-soak-"))
        self._home = self._folder / "home"
        self._port = free_port()
        self._proxy = FaultyProxy(self._port, seed)
        self._collector: Any = None
        self._workers: list[Worker] = []
        self._all: list[Worker] = []
        self._killed = {"workers": 0, "collectors": 0}
        self.problems: list[str] = []
        self.report: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """Everything; returns the report."""
        self._start_collector()
        keys = wait_for(self._keys, "the collector writes no key")
        self._environment = {
            **os.environ,
            "AGENT_SDK_HOME": str(self._home),
            "AGENT_SDK_BASE_URL": self._proxy.url,
            "AGENT_SDK_API_KEY": next(iter(keys.values())),
            "AGENT_SDK_REQUEST_TIMEOUT": "3",
        }
        try:
            self._workers = [self._start_worker() for _ in range(self._number)]
            self._suffer()
            self._settle()
            self._reconcile()
        finally:
            for worker in self._workers:
                worker.process.kill()
            if self._collector is not None:
                self._collector.kill()
            self._proxy.close()
        return self.report

    def _start_collector(self) -> None:
        environment = {**os.environ, "AGENT_SDK_HOME": str(self._home)}
        command = [sys.executable, "-m", "agent_sdk", "serve", "--port", str(self._port)]
        self._collector = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for_port(self._port)

    def _keys(self) -> dict[str, str]:
        path = self._home / "keys.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def _start_worker(self) -> Worker:
        worker = Worker(self._folder, self._environment, self._rate)
        self._all.append(worker)
        return worker

    # -- while it lasts ------------------------------------------------------------------------------------------

    def _suffer(self) -> None:
        end = time.monotonic() + self._seconds
        next_report = 0.0
        while time.monotonic() < end:
            self._something_happens()
            pause = min(self._random.uniform(0.1, self._longest_pause), max(0.0, end - time.monotonic()))
            time.sleep(pause)
            for worker in self._workers:
                worker.look()
                if worker.process.poll() is not None:
                    self.problems.append(f"a worker ended by itself with {worker.process.returncode}")
                    self._workers.remove(worker)
                    self._workers.append(self._start_worker())
            if not self._quiet and time.monotonic() > next_report:
                next_report = time.monotonic() + 30
                left = max(0.0, end - time.monotonic())
                print(f"{left:6.0f} s left, {self._recorded()} steps, {self._killed}", flush=True)

    def _something_happens(self) -> None:
        dice = self._random.random()
        if dice < 0.08:
            victim = self._workers.pop(self._random.randrange(len(self._workers)))
            victim.end(signal.SIGKILL)
            self._killed["workers"] += 1
            self._workers.append(self._start_worker())
        elif dice < 0.13:
            self._collector.kill()
            self._collector.communicate()
            self._killed["collectors"] += 1
            self._start_collector()
        elif dice < 0.55:
            self._proxy.fail(PASS)
        else:
            self._proxy.fail(self._random.choice(FAULTS), self._random.choice((0.3, 1.0)))

    def _recorded(self) -> int:
        return sum(worker.steps for worker in self._all)

    # -- the end -------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        self._proxy.fail(PASS)
        for worker in self._workers:
            said = worker.end(signal.SIGTERM)
            if worker.process.returncode or said:
                self.problems.append(f"a worker ended with {worker.process.returncode}: {said[:500]}")
            if worker.balanced is not True:
                self.problems.append("the ledger of a worker does not balance")
        for _ in range(20):  # the collector refuses while it takes over journals of its own machine
            if not any((self._home / "journal").iterdir()):
                break
            command = [sys.executable, "-m", "agent_sdk", "push", "--timeout", "60"]
            subprocess.run(command, env=self._environment, stdout=subprocess.DEVNULL, check=False)
        left = list((self._home / "journal").iterdir())
        if left:
            self.problems.append(f"{len(left)} journals were not delivered")
        self._collector.send_signal(signal.SIGTERM)
        self._collector.communicate(timeout=60)
        self._collector = None

    def _reconcile(self) -> None:
        database = sqlite3.connect(self._home / "collector.db")
        stored, different = database.execute(
            "SELECT count(*), count(DISTINCT run_key || '/' || name) FROM steps WHERE status = 'completed'"
        ).fetchone()
        losses = dict(database.execute("SELECT reason, sum(records) FROM losses GROUP BY reason").fetchall())
        streams = {
            stream: json.loads(ranges) for stream, ranges in database.execute("SELECT stream, ranges FROM streams")
        }
        crashed = dict(
            database.execute("SELECT stream, sum(records) FROM losses WHERE reason = 'process died' GROUP BY stream")
        )
        unexplained = 0
        for stream, ranges in streams.items():
            last = ranges[-1][1]
            held = sum(end - start + 1 for start, end in ranges)
            explained = max(0, crashed.get(stream, 1) - 1)  # the loss itself stands under the last number
            unexplained += max(0, last - held - explained)
        recorded = self._recorded()
        if stored != different:
            self.problems.append(f"{stored - different} steps are stored twice")
        if stored > recorded + self._killed["workers"]:  # a step may be finished and not yet be in the counter
            self.problems.append("more steps are stored than were recorded")
        if recorded - stored > sum(losses.values()):
            self.problems.append(f"{recorded - stored} steps are missing, only {losses} are told")
        if unexplained:
            self.problems.append(f"{unexplained} records have no explanation")
        self.report = {
            "minutes": self._seconds / 60,
            "steps recorded": recorded,
            "steps stored": stored,
            "steps missing": recorded - stored,
            "records told as lost": losses,
            "records without explanation": unexplained,
            "streams": len(streams),
            "killed": self._killed,
            "connections": self._proxy.connections,
            "slowest step, ms": max(worker.slowest for worker in self._all) / 1000,
            "most log lines of a worker": max(worker.log_lines for worker in self._all),
            "most threads of a worker": max(worker.threads for worker in self._all),
            "memory of a worker, MB": self._memory(),
            "problems": self.problems,
        }

    def _memory(self) -> dict[str, float]:
        longest = max((worker.memory for worker in self._all), key=len)
        third = max(1, len(longest) // 3)
        return {
            "first third, most": round(max(longest[:third], default=0) / 1e6, 1),
            "last third, most": round(max(longest[-third:], default=0) / 1e6, 1),
        }


def main() -> int:
    """Exits with 1 if something was lost without a word."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to record (default 60)")
    parser.add_argument("--rate", type=float, default=1000.0, help="steps a second of all workers (default 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults (default 1)")
    chosen = parser.parse_args()
    report = Soak(chosen.minutes, chosen.rate, seed=chosen.seed).run()
    print(json.dumps(report, indent=2))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
