"""Break the core on purpose and see whether its tests notice: `python scripts/mutate.py --each 12`.

Uses cosmic-ray (`pip install cosmic-ray`) on a copy of the repository, a random sample of its mutations for each
module, and the tests of that module. Prints every survivor with its change. Takes minutes on two cores.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What is mutated, and the tests that protect it.
SUBJECTS = {
    "agent_sdk/delivery/buffer.py": "tests/delivery/test_pipeline.py",
    "agent_sdk/delivery/sender.py": "tests/delivery/test_sender.py",
    "agent_sdk/delivery/writer.py": "tests/delivery/test_pipeline.py",
    "agent_sdk/delivery/ledger.py": "tests/delivery/test_small_parts.py tests/delivery/test_pipeline.py",
    "agent_sdk/delivery/journal.py": "tests/delivery/test_journal.py",
    "agent_sdk/delivery/segment.py": "tests/delivery/test_journal.py",
    "agent_sdk/encoding/snapshot.py": "tests/encoding/test_snapshot.py",
    "agent_sdk/encoding/redaction.py": "tests/encoding/test_redaction.py",
    "agent_sdk/encoding/masking.py": "tests/encoding/test_redaction.py",
    "agent_sdk/recording/guard.py": "tests/recording/test_small_parts.py",
    "agent_sdk/recording/sampling.py": "tests/recording/test_sampling.py",
}
#: Annotations are never run, so that changing them changes nothing.
HARMLESS = ("core/ReplaceBinaryOperator_BitOr",)
CONFIGURATION = """
[cosmic-ray]
module-path = "{module}"
timeout = 60.0
excluded-modules = []
test-command = "{python} -m pytest -x -q -p no:cacheprovider {tests}"
[cosmic-ray.distributor]
name = "local"
"""


def main() -> int:
    """Exits with 0 whatever survives: a survivor is a question, not an error."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--each", type=int, default=12, help="mutations of each module (default 12)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample (default 1)")
    chosen = parser.parse_args()
    killed = tried = 0
    survivors: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", ".envs", "*.egg-info", "__pycache__")
        )
        for module, tests in SUBJECTS.items():
            session = _session(copy, module, tests, chosen.each, chosen.seed)
            rows = _results(session)
            alive = [diff for outcome, diff in rows if outcome == "SURVIVED"]
            tried += len(rows)
            killed += len(rows) - len(alive)
            survivors += alive
            print(f"{module:36} {len(rows) - len(alive):3} of {len(rows):3} killed", flush=True)
    print(f"{'all':36} {killed:3} of {tried:3} killed\n")
    print("\n\n".join(survivors))
    return 0


def _session(copy: Path, module: str, tests: str, each: int, seed: int) -> Path:
    configuration, session = copy / "mutations.toml", copy / f"{Path(module).stem}.sqlite"
    configuration.write_text(CONFIGURATION.format(module=module, tests=tests, python=sys.executable))
    tool = [str(Path(sys.executable).parent / "cosmic-ray")]
    subprocess.run([*tool, "init", str(configuration), str(session)], cwd=copy, check=True, capture_output=True)
    with sqlite3.connect(session) as database:
        jobs = database.execute("SELECT job_id, operator_name FROM mutation_specs").fetchall()
        wanted = [job for job, operator in sorted(jobs) if not operator.startswith(HARMLESS)]
        random.Random(seed).shuffle(wanted)
        for table in ("mutation_specs", "work_items"):
            marks = ",".join("?" * len(wanted[:each]))
            database.execute(f"DELETE FROM {table} WHERE job_id NOT IN ({marks})", wanted[:each])
    subprocess.run([*tool, "exec", str(configuration), str(session)], cwd=copy, check=True, capture_output=True)
    return session


def _results(session: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(session) as database:
        found = database.execute("SELECT test_outcome, diff FROM work_results").fetchall()
    return [(str(outcome), diff or "") for outcome, diff in found]


if __name__ == "__main__":
    sys.exit(main())
