"""Whatever is passed to the tracker, what it records is what docs/wire.md and schema.json say."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import agent_sdk.wire
from agent_sdk.testing import recording
from agent_sdk.wire.records import RECORD_TYPES, STATUSES

SCHEMA = json.loads((Path(agent_sdk.wire.__file__).parent / "schema.json").read_text(encoding="utf-8"))
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["x" * 1030, "\ud800", "漢" * 20]),
    st.binary(max_size=50),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5) | st.integers(), st.floats() | st.text(max_size=5), max_size=3),
    st.sets(st.integers(), max_size=3),
    st.just(object()),
)


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip("jsonschema")
    return jsonschema.Draft202012Validator(SCHEMA)


@given(values=st.lists(odd, min_size=1, max_size=15))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_record_is_valid_whatever_is_passed(validator, values):
    def any_of_it():
        return next(endless)

    endless = itertools.cycle(values)

    with recording() as recorded:
        tracker = recorded.tracker
        with tracker.track_run(
            any_of_it(), any_of_it(), any_of_it(), any_of_it(), session_id=any_of_it(), user_id=any_of_it(),
            tags=any_of_it(), metadata=any_of_it(), parent_run_id=any_of_it(), run_id=any_of_it(),
        ) as run:  # fmt: skip
            run.set_metadata(any_of_it(), a=any_of_it()).add_tags(any_of_it()).set_attributes(external_id=any_of_it())
            with tracker.track_step_context(any_of_it(), any_of_it(), any_of_it(), any_of_it()) as step:
                step.set_output(any_of_it()).set_model(any_of_it()).set_error(any_of_it(), any_of_it())
                step.set_usage(input_tokens=any_of_it(), cost=any_of_it(), mine=any_of_it()).first_token()
            tracker.track_step(
                any_of_it(), any_of_it(), any_of_it(), any_of_it(), any_of_it(), any_of_it(), any_of_it(), any_of_it(),
                usage={"total_tokens": any_of_it()}, tags=any_of_it(), status=any_of_it(), model=any_of_it(),
            )  # fmt: skip
            run.end(any_of_it(), any_of_it(), any_of_it())
            run.set_output(any_of_it())
        records = recorded.records
        assert {record["type"] for record in records} >= {"run.start", "run.end", "step.end", "run.update"}
        assert sum(record["type"] == "step.end" for record in records) == 2
        for record in records:
            errors = [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(record)]
            assert not errors, record["type"]


def test_the_schema_knows_the_same_words():
    assert {part["$ref"].rpartition("/")[2] for part in SCHEMA["oneOf"]} == RECORD_TYPES
    assert set(SCHEMA["$defs"]["status"]["enum"]) == STATUSES


def test_the_schema_is_itself_valid(validator):
    validator.check_schema(SCHEMA)
