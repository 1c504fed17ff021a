"""The memory destination: keeps records in a list, for tests and notebooks."""

from __future__ import annotations

import json
from typing import Any, Sequence

from agent_sdk.delivery.destinations.base import DELIVERED, Destination, Outcome


class MemoryDestination(Destination):
    """Remembers every record that was delivered."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def deliver(self, lines: Sequence[bytes], deadline: float) -> Outcome:
        """Take the batch."""
        self.lines.extend(lines)
        return Outcome(DELIVERED)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The delivered records, in the order of their delivery."""
        return [json.loads(line) for line in self.lines]
