"""One command for newcomers: makes a virtual environment if none is active, installs what is needed, and runs.

python3 scripts/dev.py demo     record a research agent and show its run
python3 scripts/dev.py test     run all tests (more words are pytest's: `test tests/recording -x`)
python3 scripts/dev.py check    what CI checks besides: style, types, layers
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
EXTRAS = {"demo": "cli,server,fast", "test": "test", "check": "dev"}
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("mypy", "examples", "integrations"),
    ("pyright", "--pythonpath", "{python}"),
    ("lint-imports",),
)


def main() -> int:
    """Do what the first argument says; the exit code is that of the program that was run."""
    task, *rest = sys.argv[1:] or ["help"]
    if task not in EXTRAS:
        print(__doc__)
        return 0 if task in ("help", "-h", "--help") else 2
    os.chdir(ROOT)
    python = _python()
    _install(python, EXTRAS[task])
    if task == "demo":
        return _run([python, "-m", "agent_sdk", "demo", *rest])
    if task == "test":
        return _run([python, "-m", "pytest", *(rest or ["-n", "auto"])])
    programs = Path(python).parent
    commands = [[word.format(python=python) for word in check] for check in CHECKS]
    return max(_run([str(programs / program), *arguments]) for program, *arguments in commands)


def _python() -> str:
    """The active environment's Python, or that of our own, which is made now if it is not there."""
    if sys.prefix != sys.base_prefix:
        return sys.executable
    python = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        print(f"making a virtual environment in {ENVIRONMENT.name}", flush=True)
        made = subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=False)
        if made.returncode:  # Debian's Python comes without ensurepip; our own pip can install into it all the same
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(ENVIRONMENT)], check=True)
    return str(python)


def _install(python: str, extras: str) -> None:
    print(f"installing agent-sdk[{extras}]", flush=True)
    what = ["install", "--quiet", "--editable", f".[{extras}]"]
    if shutil.which("uv"):
        subprocess.run(["uv", "pip", *what, "--python", python], check=True)
    elif not subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        subprocess.run([python, "-m", "pip", "--disable-pip-version-check", *what], check=True)
    else:
        subprocess.run([sys.executable, "-m", "pip", "--python", python, *what], check=True)


def _run(command: list[str]) -> int:
    print("$", " ".join([Path(command[0]).name, *command[1:]]), flush=True)
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
