"""A model that needs no network: it reads its messages and decides by simple rules what to do next.

It is no language model, but it behaves like one towards a program: messages in, text or a tool call out, tokens
counted, answers streamed piece by piece.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, Sequence

from agent_sdk.examples.tools import words

NAME = "offline-1"
_PRICE_PER_TOKEN = 0.000002
Message = Dict[str, Any]  # `dict[...]` needs Python 3.9


@dataclass
class Reply:
    """What the model says: a text, or the tool that it wants to be called."""

    text: str = ""
    tool: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, float] = field(default_factory=dict)


class OfflineModel:
    """Answers at once, or with ``tokens_per_second`` at the pace of a real model."""

    def __init__(self, tokens_per_second: float | None = None) -> None:
        self._pause = 1 / tokens_per_second if tokens_per_second else 0.0

    def complete(self, messages: Sequence[Message]) -> Reply:
        """The next step of an agent that has these messages behind it."""
        instruction = messages[0]["content"]
        reply = _plan(messages) if "Split the question" in instruction else _research(messages)
        said = reply.text or json.dumps({"tool": reply.tool, "arguments": reply.arguments})
        reply.usage = _usage(messages, said)
        time.sleep(self._pause * reply.usage["output_tokens"])
        return reply

    def stream(self, messages: Sequence[Message]) -> Iterator[str]:
        """The final answer, piece by piece: the findings that the messages hold, as one text."""
        findings = json.loads(messages[-1]["content"])
        text = " ".join(finding.strip().rstrip(".") + "." for finding in findings)
        for piece in re.findall(r"\S+\s*", text):
            time.sleep(self._pause)
            yield piece

    def usage_of(self, messages: Sequence[Message], answer: str) -> dict[str, float]:
        """What a streamed answer has used."""
        return _usage(messages, answer)


def _plan(messages: Sequence[Message]) -> Reply:
    question = messages[-1]["content"]
    parts = re.split(r",\s*(?:and\s+)?|\?\s*", question)
    return Reply(text=json.dumps([part.strip() + "?" for part in parts if len(words(part)) > 2]))


def _research(messages: Sequence[Message]) -> Reply:
    """Search, then look into the best file, then calculate if there are numbers, then answer."""
    question = messages[1]["content"]
    results = {message["name"]: message["content"] for message in messages if message["role"] == "tool"}
    if "search" not in results:
        return Reply(tool="search", arguments={"query": " ".join(words(question))})
    best = json.loads(results["search"])[0]["file"]
    if best.endswith(".csv"):
        return _research_table(question, best, results)
    if "read_document" not in results:
        return Reply(tool="read_document", arguments={"file": best})
    return Reply(text=_best_sentence(question, results["read_document"]))


def _research_table(question: str, file: str, results: dict[str, str]) -> Reply:
    if "sum_columns" not in results:
        return Reply(tool="sum_columns", arguments={"file": file})
    totals = json.loads(results["sum_columns"])
    wanted = next((name for name in totals if set(words(name.replace("_", " "))) & set(words(question))), None)
    if wanted is None:
        return Reply(text=f"{file} has {', '.join(totals)}, but not what was asked for.")
    if "calculate" not in results:
        everything = " + ".join(str(total) for total in totals.values())
        return Reply(tool="calculate", arguments={"expression": f"100 * {totals[wanted]} / ({everything})"})
    source = wanted.split("_")[0].capitalize()
    return Reply(text=f"{source} gave {totals[wanted]:,.0f} MWh, {results['calculate']} percent of all electricity")


def _best_sentence(question: str, text: str) -> str:
    asked = set(words(question))
    sentences = re.split(r"(?<=[.])\s+", re.sub(r"#.*\n", "", text).replace("\n", " "))
    return max(sentences, key=lambda sentence: len(asked & set(words(sentence))) + ("euro" in sentence) * 0.5)


def _usage(messages: Sequence[Message], answer: str) -> dict[str, float]:
    read = sum(len(re.findall(r"\w+|\S", str(message["content"]))) for message in messages)
    written = len(re.findall(r"\w+|\S", answer))
    return {"input_tokens": read, "output_tokens": written, "cost": round((read + 4 * written) * _PRICE_PER_TOKEN, 6)}
