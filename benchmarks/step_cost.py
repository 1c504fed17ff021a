"""What a recorded step costs, beside the OpenTelemetry SDK on the same work, in one process and in turns.

The work is a run of eleven nested steps, each with 0.5 KB of input, 0.5 KB of output, three metadata fields and a
token count; both deliver to a sink in another process. Reported are medians, in microseconds of CPU a step: of the
calling thread, and of the whole process until everything is delivered.

    pip install -e '.[test]'
    python -m benchmarks.step_cost
    python -m benchmarks.step_cost --without-orjson
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from typing import Any, Callable

import click

_DEPTH = 11
_WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "the",
    "lazy",
    "dog",
    "while",
    "an",
    "assistant",
    "searches",
    "the",
    "archive",
    "for",
    "notes",
    "on",
    "Bern",
]
_METADATA = {"attempt": 1, "region": "eu", "cached": False}


def _payload(seed: int) -> dict[str, str]:
    """An object of about 0.5 KB as JSON."""
    return {
        f"field_{number}": " ".join(_WORDS[(seed + 3 * number + word) % len(_WORDS)] for word in range(5))
        for number in range(12)
    }


def _agent_sdk(url: str) -> tuple[Callable[[Any, Any], None], Callable[[], Any]]:
    from agent_sdk import create_tracker

    tracker = create_tracker(base_url=url, home=tempfile.mkdtemp())

    def step(depth: int, given: Any, answer: Any) -> None:
        with tracker.track_step_context("step", "llm_call", given, _METADATA) as recorded:
            if depth > 1:
                step(depth - 1, given, answer)
            recorded.set_output(answer).set_usage(total_tokens=100)

    def run(given: Any, answer: Any) -> None:
        with tracker.track_run("agent"):
            step(_DEPTH, given, answer)

    return run, lambda: tracker.flush(30)


def _opentelemetry(url: str) -> tuple[Callable[[Any, Any], None], Callable[[], Any]]:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    # Room for what one round records, because the SDK drops what is beyond 2,048 spans.
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces"), max_queue_size=100_000, max_export_batch_size=512)
    )
    tracer = provider.get_tracer("benchmark")

    def attribute(value: Any) -> str:
        # Attributes are text or numbers: objects are encoded by the instrumentation, with the standard library.
        return value if isinstance(value, str) else json.dumps(value)

    def step(depth: int, given: Any, answer: Any) -> None:
        with tracer.start_as_current_span("step") as span:
            span.set_attribute("step.type", "llm_call")
            span.set_attribute("input.value", attribute(given))
            for name, value in _METADATA.items():
                span.set_attribute(name, value)
            if depth > 1:
                step(depth - 1, given, answer)
            span.set_attribute("output.value", attribute(answer))
            span.set_attribute("llm.usage.total_tokens", 100)

    def run(given: Any, answer: Any) -> None:
        with tracer.start_as_current_span("agent"):
            step(_DEPTH, given, answer)

    return run, lambda: provider.force_flush(30_000)


def _measure(run: Callable[[Any, Any], None], flush: Callable[[], Any], given: Any, answer: Any) -> tuple[float, float]:
    """CPU microseconds a step: of this thread, and of the process with delivery."""
    runs = 40
    process, thread = time.process_time(), time.thread_time()
    for _ in range(runs):
        run(given, answer)
    thread = time.thread_time() - thread
    flush()
    process = time.process_time() - process
    return thread / runs / _DEPTH * 1e6, process / runs / _DEPTH * 1e6


@click.command(help=__doc__.split("\n")[0])
@click.option("--rounds", default=25, show_default=True, help="How often each subject is measured, in turns.")
@click.option("--without-orjson", is_flag=True, help="Encode with the standard library, as without the `fast` extra.")
def main(rounds: int, without_orjson: bool) -> None:
    if without_orjson:
        sys.modules["orjson"] = None  # type: ignore[assignment]
    from benchmarks.sink import start_sink

    url = start_sink()
    subjects = {"OpenTelemetry SDK": _opentelemetry(url), "agent-sdk": _agent_sdk(url)}
    text, other_text = json.dumps(_payload(1)), json.dumps(_payload(2))
    payloads = {"objects": (_payload(1), _payload(2)), "text": (text, other_text)}
    codec = "without" if without_orjson else "with"
    print(f"Python {sys.version.split()[0]}, {codec} orjson, medians of {rounds} rounds")
    for shape, (given, answer) in payloads.items():
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
        for name in [*subjects] * 3 + [*subjects] * rounds:  # three rounds to warm up
            found[name].append(_measure(*subjects[name], given, answer))
        medians = {name: [statistics.median(part) for part in zip(*times[3:])] for name, times in found.items()}
        for name, (caller, process) in medians.items():
            ratio = caller / medians["OpenTelemetry SDK"][0]
            costs = f"caller {caller:6.1f} µs/step ({ratio:.2f})   with delivery {process:6.1f} µs/step"
            print(f"{shape:8} {name:18} {costs}")


if __name__ == "__main__":
    main()
