"""What `import agent_sdk` loads, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

ABSENT = ("requests", "urllib3", "asyncio", "ssl", "wrapt", "http.client", "socket")


def loaded(program):
    report = "; import sys; print(' '.join(sorted(sys.modules)))"
    command = [sys.executable, "-S", "-c", program + report]
    paths = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=paths)
    return set(ran.stdout.split())


def test_importing_loads_neither_network_nor_event_loop_nor_wrapt():
    assert not loaded("import agent_sdk") & set(ABSENT)


def test_recording_without_a_decorator_loads_no_more():
    program = (
        "import agent_sdk; t = agent_sdk.create_tracker(base_url='memory://x', durability='memory')\n"
        "with t.track_run('a') as run:\n    t.track_step('s', input_data={'a': 1}); run.set_error(ValueError('x'))\n"
        "t.flush()\nt"
    )
    assert not loaded(program) & set(ABSENT)


@pytest.mark.parametrize(
    "module", ["agent_sdk.collector", "agent_sdk.cli", "agent_sdk.testing", "agent_sdk.integrations"]
)
def test_nothing_of_the_extras_comes_with_it(module):
    assert module not in loaded("import agent_sdk")
