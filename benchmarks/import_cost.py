"""What `import agent_sdk` costs beyond starting Python, and what its neighbours cost, in CPU milliseconds.

python -m benchmarks.import_cost
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

_ROUNDS = 15
_SUBJECTS = {
    "agent_sdk": "import agent_sdk",
    "agent_sdk, first @track": "import agent_sdk; agent_sdk.track(len)",
    "json": "import json",
    "requests": "import requests",
    "opentelemetry-sdk": "import opentelemetry.sdk.trace.export",
}


def cpu(program: str) -> float:
    """CPU milliseconds of a Python process that runs ``program``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def main() -> None:
    """Print medians, measured in turns."""
    found: dict[str, list[float]] = {name: [] for name in ("bare Python", *_SUBJECTS)}
    for _ in range(_ROUNDS):
        found["bare Python"].append(cpu("pass"))
        for name, program in _SUBJECTS.items():
            found[name].append(cpu(program))
    bare = statistics.median(found.pop("bare Python"))
    print(f"Python {sys.version.split()[0]}: {bare:.1f} ms by itself")
    for name, times in found.items():
        print(f"{name:26} +{statistics.median(times) - bare:6.1f} ms")


if __name__ == "__main__":
    main()
