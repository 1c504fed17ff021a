"""Canaries in every place, and texts that only look like secrets."""

from __future__ import annotations

import json
import threading
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent_sdk.encoding import Redactor
from agent_sdk.encoding import redaction as rules
from tests.support.collector import wait_for

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PRIVATE_KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEcanarycanary\nabc==\n-----END RSA PRIVATE KEY-----"
#: A text with a secret in it, and the secret.
SECRETS = [
    ("sk-proj-canary0123456789abcdef", "canary0123456789"),
    ("sk_live_canary0123456789abc", "canary0123456789"),
    ("the key is ask_canary0123456789abcdef, keep it", "canary0123456789"),
    ("hf_canarycanarycanary", "canarycanary"),
    ("npm_canarycanarycanary", "canarycanary"),
    ("xai-canarycanarycanary", "canarycanary"),
    ("glpat-canarycanary012345", "canarycanary"),
    ("gsk_canarycanary0123456", "canarycanary"),
    ("sess-canarycanary0123456", "canarycanary"),
    ("ghp_canary0123456789canary0123456789", "canary0123456789"),
    ("gho_canary0123456789canary", "canary0123456789"),
    ("github_pat_canary0123456789canary", "canary0123456789"),
    ("AKIACANARYCANARY1234", "CANARYCANARY"),
    ("ASIACANARYCANARY1234", "CANARYCANARY"),
    ("AIzacanary0123456789canary0123456789", "canary0123456789"),
    ("xoxb-canary-0123456789", "canary"),
    ("SG.canarycanary012345.canarycanary012345", "canarycanary"),
    (JWT, "eyJzdWIi"),
    ("session-" + JWT, "eyJzdWIi"),
    (PRIVATE_KEY, "canarycanary"),
    ("-----BEGIN PRIVATE KEY-----\ncanarycanary cut off", "canarycanary"),
    ("Authorization: Bearer canary.canary-canary", "canary.canary"),
    ("authorization: basic Y2FuYXJ5OmNhbmFyeQ==", "Y2FuYXJ5"),
    ("curl -H 'Authorization: Basic Y2FuYXJ5OmNhbmFyeQ=='", "Y2FuYXJ5"),
    ("postgresql://me:canary@db.example/x", "canary"),
    ("https://canary-user:canary@proxy:8080", ":canary@"),
    ("password=canary", "canary"),
    ("DB_PASSWORD = 'canary'", "canary"),
    ('{"password": "canary"}', "canary"),
    ('escaped {\\"api_key\\": \\"canary\\"}', "canary"),
    ("export OPENAI_API_KEY=canary", "canary"),
    ("api key: canary", "canary"),
    ("?access_token=canary&x=1", "canary"),
    ("Cookie: canary=1", "canary"),
    ("passphrase: canary", "canary"),
    ("client_secret=canary", "canary"),
    ("{'credentials': 'canary'}", "canary"),
    ("pwd=canary", "canary"),
]
#: Keys whose values are secrets, whatever they look like.
KEYS = [
    *("password", "Password", "db_password", "PASSWD", "api_key", "apiKey", "API-KEY", "api key", "x-api-key"),
    *("secret", "client_secret", "clientSecret", "access_key", "secretAccessKey", "private_key", "signing-key"),
    *("authorization", "Authorization", "Cookie", "set-cookie", "token", "access_token", "refreshToken"),
    *("credentials", "credential", "pwd", "passphrase", "encryption_key", "X-Agentscope-Key"),
]
INNOCENT = [
    "input_tokens",
    "The task_id is task_0123456789abcdef0123",
    "basic understanding of the basic information",
    "mail me at ada@example.org",
    "tokenizer and tokens, keys and keyboards, monkeys",
    "https://example.org:8080/path?x=1",
    "10:30 - 11:45 @ room 5",
    "In Asia, Asian ASIA",
    "secret of the forest",
    "ask_me",
    "risk-based, desk-bound, sk-1",
]


#: Of which long texts are made that would take quadratic time with a careless rule.
PIECES = [
    *("a-", "eyJ-", "eyJaaaaaaaa", "://", "://a:", "-----BEGIN ", "password ", "password="),
    *("SG.", "sk-", "bearer ", "Basic aaaa "),
]


def line_of(**fields):
    return json.dumps({"type": "step.end", "id": "s-1", **fields}, ensure_ascii=False).encode() + b"\n"


def redacted(**fields):
    (line,) = Redactor().redact([line_of(**fields)])
    return json.loads(line)


@pytest.mark.parametrize(("text", "secret"), SECRETS)
@pytest.mark.parametrize(
    "place",
    [
        lambda text: {"input": text},
        lambda text: {"output": {"deep": [{"er": text}]}},
        lambda text: {"input": {text: 1}},
        lambda text: {"error": {"message": text, "stack": f"line 1\n{text}\nline 3"}},
        lambda text: {"metadata": {"headers": [["x", text]]}},
        lambda text: {"name": text},
        lambda text: {"tags": ["a", text]},
        lambda text: {"input": json.dumps({"nested": text})},
        lambda text: {"input": repr({"pickled": text})},
        lambda text: {"output": f"before {text}"},
    ],
)
def test_a_secret_is_gone_from_every_place(place, text, secret):
    assert secret not in json.dumps(redacted(**place(text)), ensure_ascii=False)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["canary", 12345, ["canary"], {"a": "canary"}, 1.5])
def test_a_value_under_a_secret_key_is_gone(key, value):
    found = redacted(input={"deep": [{key: value}]})
    assert found["input"] == {"deep": [{key: "[redacted]"}]}


@pytest.mark.parametrize("value", [None, True, False, ""])
def test_what_cannot_be_a_secret_stays_under_a_secret_key(value):
    assert redacted(input={"password": value})["input"] == {"password": value}


@pytest.mark.parametrize("text", INNOCENT)
def test_what_only_looks_like_a_secret_stays(text):
    assert redacted(input=text, output={"a": [text]})["input"] == text


def test_what_surrounds_a_secret_stays():
    assert redacted(input="postgresql://me:canary@db/x")["input"] == "postgresql://me:[redacted]@db/x"
    assert redacted(input="a password=canary b")["input"] == "a password=[redacted] b"
    assert redacted(input="Bearer canarycanary!")["input"] == "Bearer [redacted]!"


def test_redacting_twice_changes_nothing_more():
    first = Redactor().redact([line_of(input=text) for text, _ in SECRETS])
    assert Redactor().redact(first) == first


def test_records_without_a_hint_are_the_same_bytes():
    lines = [line_of(input=text) for text in (INNOCENT[0], INNOCENT[4])]
    assert Redactor().redact(lines) == lines


def test_ids_and_times_are_never_touched():
    run_id = "0199aaaa-bbbb-7ccc-8ddd-0123456789ab"
    found = redacted(run_id=run_id, time=5, input="password=canary")
    assert (found["run_id"], found["time"], found["id"]) == (run_id, 5, "s-1")


def test_a_line_that_is_no_json_is_emptied_not_written():
    redactor = Redactor()
    assert redactor.redact([b'{"input":"password=canary\n']) == [b"{}\n"]
    assert redactor.failures == 1


def test_without_builtin_rules_and_mask_nothing_is_looked_at():
    lines = [b"no json password=canary"]
    assert Redactor(builtin=False).redact(lines) == lines


fragments = st.sampled_from(
    [text for text, _ in SECRETS] + KEYS + INNOCENT + [" ", "\n", '"', "\\", "=", ":", "é", "a", "-", "_", "@", "'"]
)


@given(st.lists(fragments, min_size=1, max_size=6).map("".join))
@example("x" + JWT)
@example("\nsk-canarycanarycanary01")
@settings(max_examples=400, deadline=None)
def test_the_hints_miss_nothing_that_the_rules_would_find(text):
    for fields in ({"input": text}, {"input": {text: 1}}, {"input": {text: "value"}}, {"output": [text, {"a": text}]}):
        line = line_of(**fields)
        everything = json.loads(line)
        for name in [*fields]:
            everything[name] = rules._without_secrets(everything[name])
        assert json.loads(Redactor().redact([line])[0]) == everything


@pytest.mark.parametrize(
    "piece",
    [
        "a-",
        "eyJ-",
        "eyJaaaaaaaa",
        "://",
        "://a:",
        "-----BEGIN ",
        "password ",
        "password=",
        "SG.",
        "sk-",
        "bearer ",
        "Basic aaaa ",
    ],
)
def test_no_text_takes_more_than_linear_time(piece):
    def cost(length):
        text = piece * (length // len(piece))
        best = 9.0
        for _ in range(5):
            start = time.thread_time()
            rules._clean(text)
            best = min(best, time.thread_time() - start)
        return best

    # Quadratic time would be 256 times as much; linear time is 16 times.
    assert cost(131_072) < 100 * max(cost(8_192), 0.0005)


class TestMask:
    def test_it_is_asked_for_every_field_that_is_not_our_own(self):
        asked = []

        def mask(field, value):
            asked.append((field, value))
            return value

        Redactor(mask).redact([line_of(name="n", input={"a": 1}, run_id="r", status="completed")])
        assert asked == [("name", "n"), ("input", {"a": 1}), ("status", "completed")]

    def test_its_answer_is_recorded_and_the_rules_apply_to_it(self):
        (line,) = Redactor(lambda field, value: f"{field} password=canary").redact([line_of(input=1)])
        assert json.loads(line)["input"] == "input password=[redacted]"

    @pytest.mark.parametrize(
        "mask",
        [
            lambda field, value: 1 / 0,
            lambda field, value: object(),
            lambda field, value: {1, 2},
            lambda field, value: exit(),
            lambda: None,
        ],
    )
    def test_where_it_fails_the_field_is_withheld(self, mask):
        redactor = Redactor(mask)
        (line,) = redactor.redact([line_of(input="canary")])
        assert json.loads(line) == {"type": "step.end", "id": "s-1", "input": "[withheld: masking failed]"}
        assert redactor.failures == 1

    def test_where_it_hangs_the_field_is_withheld_and_it_is_not_asked_again(self):
        let_go = threading.Event()
        asked = []

        def mask(field, value):
            asked.append(field)
            let_go.wait(20)
            return value

        redactor = Redactor(mask)
        redactor._mask._patience = 0.05
        try:
            start = time.monotonic()
            lines = redactor.redact([line_of(input="canary", output="canary")] * 100)
            assert time.monotonic() - start < 5
            assert b"canary" not in b"".join(lines)
            assert asked == ["input"]
        finally:
            let_go.set()

    def test_one_thread_serves_all_calls_and_ends_with_the_redactor(self):
        threads = set()

        def mask(field, value):
            threads.add(threading.get_ident())
            return value

        before = len(__import__("sys")._current_frames())
        redactor = Redactor(mask)
        redactor.redact([line_of(input=1, output=2)] * 50)
        assert len(threads) == 1
        del redactor
        wait_for(lambda: len(__import__("sys")._current_frames()) <= before, "the masking thread is still there")

    def test_where_no_thread_can_be_had_it_is_asked_all_the_same(self, monkeypatch):
        def refuse(*_):
            raise RuntimeError("can't start new thread at interpreter shutdown")

        monkeypatch.setattr("agent_sdk.encoding.masking._thread.start_new_thread", refuse)
        (line,) = Redactor(lambda field, value: "masked").redact([line_of(input=1)])
        assert json.loads(line)["input"] == "masked"
