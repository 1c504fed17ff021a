"""The check by hand that every record passes through says the same as the published JSON Schema."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import agent_sdk.wire
from agent_sdk.collector.validation import MAX_TIME, why_refused
from agent_sdk.wire.records import RECORD_TYPES, STATUSES
from tests.collector.making import Stream, run_id, step_id

SCHEMA = json.loads((Path(agent_sdk.wire.__file__).parent / "schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

RUN = run_id(1)
STEP = step_id(1)
#: One complete record of each type, to be spoiled in one place.
GOOD: dict[str, dict[str, Any]] = {
    "run.start": {
        "run_id": RUN,
        "agent_name": "a",
        "session_id": "s",
        "user_id": "u",
        "external_id": "e",
        "parent_run_id": run_id(2),
        "tags": ["t"],
        "metadata": {"k": 1},
        "source": {"pid": 1},
        "input": [1],
    },
    "run.update": {"run_id": RUN, "status": "failed", "error": {"type": "E", "message": "m", "stack": "s"}},
    "run.end": {"run_id": RUN, "status": "completed", "started_at": 1, "agent_name": "a", "output": {}},
    "step.start": {"run_id": RUN, "step_id": STEP, "name": "n", "step_type": "llm_call", "parent_step_id": step_id(2)},
    "step.update": {"run_id": RUN, "step_id": STEP, "usage": {"input_tokens": 1, "cost": 0.5}, "first_token_at": 3},
    "step.end": {
        "run_id": RUN,
        "step_id": STEP,
        "name": "n",
        "step_type": "mine",
        "status": "failed",
        "started_at": 1,
        "model": "m",
        "tags": [],
        "metadata": {},
        "error": {},
        "usage": {"mine": "kept"},
    },
    "score": {"run_id": RUN, "step_id": STEP, "name": "n", "value": 0.5, "comment": "c"},
    "heartbeat": {
        "runs": [RUN],
        "interval": 10,
        "ledger": {"recorded": 1, "delivered": 1, "journaled": 0, "pending": 0, "dropped": {"memory": 1}},
    },
    "loss": {"reason": "memory", "records": 5, "runs": [RUN]},
}
TOKENS = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "total_tokens")
FIELDS = sorted({name for record in GOOD.values() for name in record} | {"type", "id", "time"})
#: Values at and beyond each limit of the format.
EDGES: list[Any] = [
    *(None, True, False, 0, 1, -1, 0.0, 1.0, 1.5, -0.5, 2**70, MAX_TIME, MAX_TIME + 1, float(MAX_TIME), 1e300),
    *("", "a", "x" * 64, "x" * 65, "ü" * 1024, "ü" * 1025, "running", "lost", "heartbeat", "run.pause"),
    *([], {}, [None], [1], [""], ["x" * 1024], ["x" * 1025], ["t"] * 1000, ["t"] * 1001, {"a": None}, [[]], [{}]),
    *(RUN, RUN.upper(), RUN.replace("-", ""), RUN + "0", [RUN], [RUN, STEP], [RUN.upper()]),
    *(STEP, "0" * 16, "F" * 16, "f" * 15, "f" * 17, f"{STEP}-1", f"{STEP}-0", f"{STEP}-01", f"{STEP}-{'9' * 19}"),
    *(f"{STEP}-{'9' * 20}", f"{STEP}-", f"{STEP.upper()}-1", "\N{ARABIC-INDIC DIGIT ONE}" * 16),
    *({"type": None, "message": "", "stack": "s"}, {"type": 1}, {"message": []}, {"stack": {}}, {"else": 1}),
    *({name: value} for name in TOKENS for value in (None, 0, 3.0, 2**70, -1, 0.5, "1", True)),
    *({"cost": value} for value in (None, 0, 0.5, -0.1, "1", True, 10**400)),
    *({name: value} for name in ("recorded", "pending") for value in (0, -1, 1.0, 1.5, None, "1")),
    *({"dropped": value} for value in ({}, {"a": 1}, {"a": 1.5}, {"a": None}, {"a": True}, None, [])),
    *sorted(STATUSES),
]
#: A run's usage is checked like a step's; the schema does not speak of it (the fields of runs have none).
BEYOND_THE_SCHEMA = {("run.start", "usage"), ("run.update", "usage"), ("run.end", "usage")}

ODD_VALUES = st.sampled_from(EDGES) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*TOKENS, *FIELDS]), inner, max_size=3),
    max_leaves=4,
)


def good(kind: str) -> dict[str, Any]:
    return {"type": kind, "id": f"{STEP}-1", "time": 1_700_000_000_000_000, **GOOD[kind]}


@st.composite
def nearly_records(draw: st.DrawFn) -> Any:
    """A record in which some fields have been replaced, added or taken away."""
    record = good(draw(st.sampled_from(sorted(RECORD_TYPES))))
    for name in draw(st.lists(st.sampled_from(FIELDS), max_size=3, unique=True)):
        if (record["type"], name) in BEYOND_THE_SCHEMA:
            continue
        if draw(st.booleans()):
            record.pop(name, None)
        else:
            record[name] = draw(ODD_VALUES)
        if type(record.get("type")) is not str:
            break
    return record


def is_valid(record: Any) -> bool:
    return bool(VALIDATOR.is_valid(record))


class TestAgainstTheSchema:
    def test_the_schema_is_one(self):
        jsonschema.Draft202012Validator.check_schema(SCHEMA)

    @pytest.mark.parametrize("kind", sorted(RECORD_TYPES))
    def test_both_take_a_record_of_each_type(self, kind):
        assert why_refused(good(kind)) == ""
        VALIDATOR.validate(good(kind))

    @pytest.mark.parametrize("kind", sorted(RECORD_TYPES))
    def test_both_agree_on_every_field_at_its_limits(self, kind):
        validator = VALIDATOR.evolve(schema={**SCHEMA, "oneOf": [{"$ref": f"#/$defs/{kind}"}]})
        told: Counter[bool] = Counter()
        for name in sorted(_named_by_the_schema(kind)):
            for value in EDGES:
                record = {**good(kind), name: value}
                reason = why_refused(record)
                assert validator.is_valid(record) == (reason == ""), (name, str(value)[:80], reason)
                told[reason == ""] += 1
        assert min(told[True], told[False]) > 20

    @pytest.mark.parametrize("kind", sorted(RECORD_TYPES))
    def test_both_miss_the_same_fields_and_the_reason_names_them(self, kind):
        missed = set()
        for name in good(kind):
            record = good(kind)
            del record[name]
            reason = why_refused(record)
            assert is_valid(record) == (reason == ""), (name, reason)
            if reason.endswith(": missing"):
                assert reason == f"{name}: missing"
                missed.add(name)
        assert missed == _required(kind)

    @settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(record=nearly_records())
    def test_both_agree_on_records_that_are_spoiled_anywhere(self, record):
        assert is_valid(record) == (why_refused(record) == ""), why_refused(record)

    @pytest.mark.parametrize("value", [None, 1, "run.start", [], [good("run.start")], True])
    def test_both_refuse_what_is_no_object(self, value):
        assert why_refused(value) == "not a JSON object"
        assert not is_valid(value)

    def test_both_keep_fields_that_nobody_knows(self):
        record = {**good("run.start"), "from_the_future": {"a": [1]}}
        assert why_refused(record) == ""
        assert is_valid(record)


def _definitions(definition: dict[str, Any]) -> list[dict[str, Any]]:
    """A part of the schema and all that it is made of."""
    parts = [SCHEMA["$defs"][part["$ref"].rpartition("/")[2]] for part in definition.get("allOf", [])]
    return [definition, *(inner for part in parts for inner in _definitions(part))]


def _required(kind: str) -> set[str]:
    """What the schema asks of a type, beside what it asks of all."""
    return {name for part in _definitions(SCHEMA["$defs"][kind]) for name in part.get("required", [])}


def _named_by_the_schema(kind: str) -> set[str]:
    return {"id", "time"} | {name for part in _definitions(SCHEMA["$defs"][kind]) for name in part["properties"]}


class TestReasons:
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"type": "run.pause"}, "unknown record type"),
            ({"type": None}, "unknown record type"),
            ({"type": ["run.start"]}, "unknown record type"),
            ({"id": "1"}, "id: must be <16 hex digits>-<number>"),
            ({"id": f"{STEP}-1\n"}, "id: must be <16 hex digits>-<number>"),
            ({"time": -1}, "time: must be microseconds since the epoch"),
            ({"time": "now"}, "time: must be microseconds since the epoch"),
            ({"status": "lost"}, "status: not as the record format says (docs/wire.md)"),
            ({"tags": [1]}, "tags: not as the record format says (docs/wire.md)"),
            ({"usage": {"input_tokens": -1}}, "usage: not as the record format says (docs/wire.md)"),
        ],
    )
    def test_a_reason_names_the_field_that_is_wrong(self, change, reason):
        assert why_refused({**good("step.end"), **change}) == reason

    def test_a_usage_of_a_run_must_be_one_that_pages_can_add_up(self):
        for kind in ("run.start", "run.update", "run.end"):
            assert why_refused({**good(kind), "usage": {"total_tokens": 7, "cost": 1}}) == ""
            assert why_refused({**good(kind), "usage": "much"}).startswith("usage: ")
            assert why_refused({**good(kind), "usage": {"cost": "much"}}).startswith("usage: ")

    def test_a_refused_record_does_not_touch_the_run_that_it_names(self, shelf, stream: Stream):
        shelf.send(stream.start(1))
        answer = shelf.send(stream.end(1, status="lost"), stream.step(1, 1, started_at=None))
        assert [refused["reason"].partition(":")[0] for refused in answer.rejected] == ["status", "started_at"]
        assert shelf.queries.run(run_id(1))["step_count"] == 0
