"""The tools of the research agent: they work on the real files in ``data``, and one of them really fails at times."""

from __future__ import annotations

import ast
import csv
import json
import math
import operator
import os
import re
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

DATA = Path(__file__).parent / "data"

#: Set whenever somebody was refused by the archive.
refused = threading.Event()

_COMMON = frozenset(("how", "much", "what", "did", "does", "was", "the", "and", "from", "for", "which", "this", "all"))

_OPERATORS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class ArchiveBusy(Exception):  # noqa: N818 - it passes
    """Somebody else has the archive open; try again in a moment."""


def words(text: str) -> list[str]:
    """Lower-case words of a text, in their singular, without the commonest."""
    return [word.rstrip("s") for word in re.findall(r"[a-z]{3,}", text.lower()) if word not in _COMMON]


def search(query: str) -> list[dict[str, object]]:
    """Files by how well they match ``query`` (Okapi BM25), best first."""
    files = {path.name: words(path.stem.replace("_", " ") + " " + path.read_text()) for path in sorted(DATA.iterdir())}
    average = sum(map(len, files.values())) / len(files)
    scores = dict.fromkeys(files, 0.0)
    for term in set(words(query)):
        holding = [name for name, found in files.items() if term in found]
        rarity = math.log(1 + (len(files) - len(holding) + 0.5) / (len(holding) + 0.5))
        for name in holding:
            times, length = files[name].count(term), len(files[name])
            scores[name] += rarity * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / average))
    best = sorted(scores.items(), key=lambda item: -item[1])
    return [{"file": name, "score": round(score, 2)} for name, score in best if score > 0][:3]


def read_document(file: str) -> str:
    """The text of a file. Raises ``ArchiveBusy`` while the archive is open elsewhere."""
    with archive():
        return (DATA / Path(file).name).read_text()


def sum_columns(file: str) -> dict[str, float]:
    """The total of each column of numbers of a table."""
    with (DATA / Path(file).name).open(newline="") as table:
        rows = list(csv.DictReader(table))
    return {name: sum(float(row[name]) for row in rows) for name in rows[0] if _is_number(rows[0][name])}


def calculate(expression: str) -> float:
    """The value of an expression of numbers and ``+ - * /``."""
    return round(_evaluate(ast.parse(expression, mode="eval").body), 2)


@contextmanager
def archive() -> Iterator[None]:
    """Open the archive for one reader at a time: a lock file, as real archives have."""
    lock = Path(tempfile.gettempdir()) / f"agent-sdk-demo-archive-{os.getpid()}.lock"
    try:
        descriptor = os.open(lock, os.O_CREAT | os.O_EXCL)
    except FileExistsError as error:
        refused.set()
        raise ArchiveBusy("the archive is open elsewhere, try again in a moment") from error
    try:
        yield
    finally:
        os.close(descriptor)
        lock.unlink()


def describe(value: object) -> str:
    """A tool's result as a model gets to see it."""
    return value if isinstance(value, str) else json.dumps(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _evaluate(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    raise ValueError("only numbers and + - * / can be calculated")
