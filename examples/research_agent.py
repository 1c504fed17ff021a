"""A research agent: plans, sends two sub-agents out in parallel, retries a tool that fails, and streams its answer.

Run it with ``agent-sdk demo``, or ``python examples/research_agent.py`` and then ``agent-sdk serve``.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Iterator

from agent_sdk.examples import offline_model, tools
from agent_sdk.examples.offline_model import Message, OfflineModel, Reply

import agent_sdk

QUESTION = "How much electricity came from wind in 2025, what did the cable outage cost, and does the battery pay off?"
TOOLS: dict[str, Callable[..., Any]] = {
    "search": tools.search,
    "read_document": tools.read_document,
    "sum_columns": tools.sum_columns,
    "calculate": tools.calculate,
}
_ATTEMPTS = 4
_PATIENCE = 0.15
_LONGEST_STAY = 10.0
_MOST_TURNS = 6


class ResearchAgent:
    """Answers questions about an island's electricity from the files in ``data``."""

    def __init__(self, tracker: agent_sdk.RunTracker, model: OfflineModel) -> None:
        self.tracker = tracker
        self.model = model
        self.run_id = ""

    def answer(self, question: str) -> Iterator[str]:
        """The answer, piece by piece."""
        with self.tracker.track_run(
            "island researcher",
            input_data={"question": question},
            session_id="demo",
            tags=["demo", "offline"],
            metadata={"model": offline_model.NAME},
        ) as run:
            self.run_id = str(run)
            with somebody_else_in_the_archive():
                parts = self.plan(question)
                findings = self.research_in_parallel(parts)
            pieces = []
            for piece in self.write(question, findings):
                pieces.append(piece)
                yield piece
            run.set_output({"answer": "".join(pieces)})

    def plan(self, question: str) -> list[str]:
        """The parts of a question, as the model sees them."""
        with self.tracker.track_step_context("plan", "reasoning", input_data={"question": question}) as step:
            reply = self.ask([_system("Split the question into parts, as a JSON list."), _user(question)])
            parts: list[str] = json.loads(reply.text)
            step.set_output(parts)
            return parts

    def research_in_parallel(self, parts: list[str]) -> list[str]:
        """Findings for all parts: two sub-agents at a time, each in a thread of its own."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            # `bind` carries the current run into the threads.
            research = agent_sdk.bind(self.research)
            return list(pool.map(research, parts))

    def research(self, part: str) -> str:
        """What one sub-agent finds out about one part."""
        with self.tracker.track_step_context("sub-agent", "agent", input_data={"part": part}) as step:
            messages = [_system("Answer with the tools: search, read_document, sum_columns, calculate."), _user(part)]
            for _ in range(_MOST_TURNS):
                reply = self.ask(messages)
                if not reply.tool:
                    step.set_output({"finding": reply.text})
                    return str(reply.text)
                result = self.call_patiently(reply.tool, reply.arguments)
                messages.append({"role": "tool", "name": reply.tool, "content": tools.describe(result)})
            raise RuntimeError(f"no answer after {_MOST_TURNS} turns")

    def ask(self, messages: list[Message]) -> Reply:
        """One call of the model."""
        with self.tracker.track_step_context("complete", "llm_call", input_data={"messages": messages}) as step:
            reply = self.model.complete(messages)
            step.set_model(offline_model.NAME).set_usage(**reply.usage)
            step.set_output({"text": reply.text} if reply.text else {"tool": reply.tool, "arguments": reply.arguments})
            return reply

    def call_patiently(self, tool: str, arguments: dict[str, Any]) -> Any:
        """Call a tool; one that is busy is tried again, and each attempt is recorded."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self.tracker.track_step_context(tool, "tool_call", arguments, {"attempt": attempt}) as step:
                    result = TOOLS[tool](**arguments)
                    step.set_output(result)
                    return result
            except tools.ArchiveBusy:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(_PATIENCE)
        return None

    def write(self, question: str, findings: list[str]) -> Iterator[str]:
        """The final answer, streamed."""
        messages = [_system("Write one answer from these findings."), _user(question), _user(json.dumps(findings))]
        with self.tracker.track_step_context("write answer", "llm_call", {"messages": messages}) as step:
            step.set_model(offline_model.NAME)
            pieces = []
            for piece in self.model.stream(messages):
                step.first_token()
                pieces.append(piece)
                yield piece
            answer = "".join(pieces)
            step.set_output(answer).set_usage(**self.model.usage_of(messages, answer))


class somebody_else_in_the_archive:  # noqa: N801 - used like a function
    """Somebody else has the archive open until the first reader has been refused."""

    def __enter__(self) -> None:
        self._archive = tools.archive()
        self._archive.__enter__()
        tools.refused.clear()
        self._thread = threading.Thread(target=self._leave_after_first_refusal)
        self._thread.start()

    def _leave_after_first_refusal(self) -> None:
        tools.refused.wait(_LONGEST_STAY)
        self._archive.__exit__(None, None, None)

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def main() -> None:
    """Ask the question and print the answer."""
    tracker = agent_sdk.create_tracker()
    agent = ResearchAgent(tracker, OfflineModel(tokens_per_second=90))
    for piece in agent.answer(QUESTION):
        print(piece, end="", flush=True)
    print(f"\n\nRecorded as run {agent.run_id}. See it with: agent-sdk serve")


if __name__ == "__main__":
    main()
