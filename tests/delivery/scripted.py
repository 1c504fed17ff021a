"""A destination that answers as it is told, and a clock that moves when it is told."""

from __future__ import annotations

import json
import threading

from agent_sdk.delivery.destinations.base import DELIVERED, RETRY, Destination, Outcome


class Scripted(Destination):
    """Answers each batch with the next of ``answers``: an outcome, a function of the lines, an exception; then well."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.batches = []
        self.delivered = []
        self.deadlines = []
        self.closed = 0

    def deliver(self, lines, deadline):
        self.batches.append(list(lines))
        self.deadlines.append(deadline)
        answer = self.answers.pop(0) if self.answers else Outcome(DELIVERED)
        if callable(answer):
            answer = answer(lines)
        if isinstance(answer, BaseException):
            raise answer
        if answer.kind == DELIVERED:
            refused = {line for line, _ in answer.rejected}
            self.delivered += [line for number, line in enumerate(lines) if number not in refused]
        return answer

    def close(self):
        self.closed += 1

    @property
    def records(self):
        return [json.loads(line) for line in self.delivered]


class Hanging(Scripted):
    """Does not answer before it is let go or aborted."""

    def __init__(self):
        super().__init__()
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def deliver(self, lines, deadline):
        self.entered.set()
        self.let_go.wait(30)
        return super().deliver(lines, deadline) if not self.answers else self.answers[0]

    def abort(self):
        self.answers = [Outcome(RETRY, "aborted")]
        self.let_go.set()


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now
