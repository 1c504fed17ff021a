"""What the collector destination makes of everything that a network and a server can do, over real sockets."""

from __future__ import annotations

import gc
import gzip
import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from email.utils import formatdate
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from agent_sdk.delivery.destinations import open_destination
from agent_sdk.delivery.destinations.base import (
    DELIVERED,
    REFUSED,
    RETRY,
    TOO_LARGE,
    UNAUTHORIZED,
    BatchLimits,
    Outcome,
    Rejection,
)
from agent_sdk.delivery.destinations.collector import CollectorDestination
from tests.support import faulty_server as faulty
from tests.support.faulty_server import Behaviour, Exchange, FaultyServer

KEY = "ask_canary-5up3r-s3cr3t"
PASSWORD = "canary-pa55word"
DEADLINE = 0.2
#: How much later than its deadline a delivery may return on a busy machine.
GRACE = 2.0  # a busy machine may need it; a read without a deadline would take minutes

Open = Callable[..., CollectorDestination]


def records(count: int = 3, padding: int = 0, start: int = 1) -> list[bytes]:
    return [
        json.dumps({"type": "score", "id": f"s-{number}", "pad": "x" * padding}).encode() + b"\n"
        for number in range(start, start + count)
    ]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(name)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running
        assert running.errors == []


@pytest.fixture
def open_collector() -> Iterator[Open]:
    opened: list[CollectorDestination] = []

    def opener(url: str, key: str | None = KEY, **settings: Any) -> CollectorDestination:
        opened.append(CollectorDestination(url, lambda: key, **settings))
        return opened[-1]

    yield opener
    for destination in opened:
        destination.close()
    gc.collect(1)  # a socket that was left open would warn now


def deliver(destination: CollectorDestination, seconds: float = 5.0, lines: list[bytes] | None = None) -> Outcome:
    return destination.deliver(records() if lines is None else lines, time.monotonic() + seconds)


def deliver_in_time(destination: CollectorDestination, lines: list[bytes] | None = None) -> Outcome:
    began = time.monotonic()
    outcome = deliver(destination, DEADLINE, lines)
    assert time.monotonic() - began < DEADLINE + GRACE
    return outcome


# -- the request -------------------------------------------------------------------------------------------------


def test_a_batch_is_posted_by_the_contract(server: FaultyServer, open_collector: Open) -> None:
    assert deliver(open_collector(server.url + "/")) == Outcome(DELIVERED)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/api/ingest/batch")
    assert request.body == b"".join(records())
    assert request.headers["x-agentscope-key"] == KEY
    assert request.headers["content-type"] == "application/x-ndjson"
    assert request.headers["x-agent-sdk-wire"] == "1"
    assert request.headers["user-agent"].startswith("agent-sdk/")
    assert "content-encoding" not in request.headers
    assert server.records == {"s-1": 1, "s-2": 1, "s-3": 1}


def test_a_path_before_the_endpoint_is_kept_and_a_query_is_not(server: FaultyServer, open_collector: Open) -> None:
    assert deliver(open_collector(f"{server.url}/team/agents/?token={PASSWORD}#x")).kind == DELIVERED
    assert server.requests[0].path == "/team/agents/api/ingest/batch"


def test_larger_batches_are_compressed(server: FaultyServer, open_collector: Open) -> None:
    lines = records(100, padding=200)
    assert deliver(open_collector(server.url), lines=lines).kind == DELIVERED
    (request,) = server.requests
    assert request.headers["content-encoding"] == "gzip"
    assert gzip.decompress(request.wire_body) == b"".join(lines)
    assert len(request.wire_body) < len(request.body) // 5


def test_an_empty_batch_is_delivered_without_a_request(server: FaultyServer, open_collector: Open) -> None:
    assert deliver(open_collector(server.url), lines=[]).kind == DELIVERED
    assert server.connections == 0


def test_the_registry_of_destinations_opens_it(server: FaultyServer) -> None:
    destination = open_destination(server.url, lambda: KEY, 5.0)
    assert destination.deliver(records(), time.monotonic() + 5.0).kind == DELIVERED
    destination.close()


def test_importing_the_module_loads_nothing_heavy() -> None:
    code = (
        "import sys, agent_sdk.delivery.destinations.collector\n"
        "print(sorted({'requests', 'urllib3', 'ssl', 'asyncio', 'http.client'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert told.stdout.strip() == "[]"


# -- keys and credentials ----------------------------------------------------------------------------------------


def test_without_a_key_nothing_is_sent_to_another_machine(open_collector: Open) -> None:
    outcome = deliver(open_collector("https://collector.test", key=None))
    assert outcome.kind == UNAUTHORIZED
    assert "AGENT_SDK_API_KEY" in outcome.reason


def test_without_a_key_this_machines_collector_is_asked_and_may_refuse(open_collector: Open) -> None:
    with FaultyServer(key=KEY) as server:
        outcome = deliver(open_collector(server.url, key=None))
        assert "x-agentscope-key" not in server.requests[0].headers
    assert outcome.kind == UNAUTHORIZED
    assert "AGENT_SDK_HOME" in outcome.reason


def test_the_key_is_asked_at_each_batch(server: FaultyServer) -> None:
    keys = iter([None, "first", "second"])
    destination = CollectorDestination(server.url, lambda: next(keys))
    assert [deliver(destination).kind for _ in range(3)] == [DELIVERED] * 3
    assert [request.headers.get("x-agentscope-key") for request in server.requests] == [None, "first", "second"]
    destination.close()


def test_white_space_around_a_key_is_no_part_of_it(server: FaultyServer, open_collector: Open) -> None:
    assert deliver(open_collector(server.url, key=f" {KEY}\n")).kind == DELIVERED
    assert server.requests[0].headers["x-agentscope-key"] == KEY


@pytest.mark.parametrize("key", ["two\nlines", "two\r\nX-Admin: 1", "schlüssel-ungültig", "nul\0nul", "\ud800abc"])
def test_a_key_that_no_header_can_carry_is_told_and_not_sent(
    key: str, server: FaultyServer, open_collector: Open
) -> None:
    outcome = deliver(open_collector(server.url, key=key))
    assert outcome.kind == UNAUTHORIZED
    assert "characters" in outcome.reason
    assert key not in outcome.reason
    assert server.connections == 0


def test_a_key_that_cannot_be_asked_for_is_a_failed_delivery() -> None:
    def broken() -> str:
        raise PermissionError(f"cannot read {KEY}")

    outcome = deliver(CollectorDestination("http://127.0.0.1:1", broken))
    assert outcome.kind == RETRY
    assert "PermissionError" in outcome.reason
    assert KEY not in outcome.reason


def test_user_and_password_of_the_url_are_sent_but_never_told(server: FaultyServer, open_collector: Open) -> None:
    url = server.url.replace("http://", f"http://someone:{PASSWORD}@")
    server.behave(faulty.answer(), faulty.status(500, body={"detail": f"no {PASSWORD} please"}))
    destination = open_collector(url)
    assert deliver(destination).kind == DELIVERED
    assert server.requests[0].headers["authorization"].startswith("Basic ")
    outcome = deliver(destination)
    assert PASSWORD not in outcome.reason
    assert server.url in outcome.reason


def test_a_netrc_file_adds_nothing(
    server: FaultyServer, open_collector: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login someone password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert deliver(open_collector(server.url)).kind == DELIVERED
    assert "authorization" not in server.requests[0].headers


def test_cookies_are_not_sent_back(server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url)
    server.behave(faulty.status(503, {"Set-Cookie": "session=1; Path=/"}))
    deliver(destination)
    deliver(destination)
    assert "cookie" not in server.requests[1].headers


def _echo(code: int) -> Behaviour:
    def behaviour(exchange: Exchange) -> None:
        exchange.respond(code, {"detail": f"you sent {exchange.read().headers}"}, {"Location": f"http://{KEY}@x.test/"})

    return behaviour


def test_the_key_is_in_no_outcome_and_no_log(
    server: FaultyServer, open_collector: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echoed = [_echo(code) for code in (200, 204, 302, 400, 401, 403, 404, 413, 422, 429, 500)]
    faults = [behaviour for _, behaviour in faulty.usual_faults(interval=0.001)]
    destination = open_collector(server.url)
    for behaviour in [*echoed, *faults, faulty.reject("s-2", reason=f"{KEY} may not"), faulty.garbage(KEY.encode())]:
        server.always(behaviour)
        outcome = deliver(destination)
        assert KEY not in repr(outcome)
        assert "\n" not in outcome.reason
        assert len(outcome.reason) <= 300
    assert KEY not in caplog.text
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


# -- receipts ----------------------------------------------------------------------------------------------------


def test_rejected_records_are_named_by_line(server: FaultyServer, open_collector: Open) -> None:
    server.behave(faulty.reject("s-3", "s-1", reason="too odd"))
    outcome = deliver(open_collector(server.url))
    assert outcome == Outcome(DELIVERED, rejected=(Rejection(0, "too odd"), Rejection(2, "too odd")))
    assert server.records == {"s-2": 1}


def test_duplicates_count_as_delivered(server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url)
    assert [deliver(destination).kind for _ in range(2)] == [DELIVERED] * 2
    assert server.records == {"s-1": 2, "s-2": 2, "s-3": 2}


def test_limits_are_passed_on(open_collector: Open) -> None:
    limits = {"max_batch_bytes": 10_000, "max_batch_records": 7, "max_record_bytes": 5_000}
    with FaultyServer(limits=limits) as server:
        assert deliver(open_collector(server.url)).limits == BatchLimits(10_000, 7, 5_000)


def test_senseless_limits_are_not_taken_over(open_collector: Open) -> None:
    limits: dict[str, Any] = {"max_batch_bytes": 10**15, "max_batch_records": 0, "max_record_bytes": "many"}
    with FaultyServer(limits=limits) as server:
        told = deliver(open_collector(server.url)).limits
    assert told is not None
    assert told.max_batch_bytes <= 64 * 1024 * 1024
    assert told[1:] == BatchLimits()[1:]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"OK",
        b"\xff\xfe",
        b"[" * 50_000,
        {"accepted": 2, "duplicates": 0, "rejected": []},
        {"accepted": 4, "duplicates": -1, "rejected": []},
        {"accepted": 3, "duplicates": 0},
        {"accepted": "3", "duplicates": 0, "rejected": []},
        {"accepted": True, "duplicates": 2, "rejected": []},
        {"accepted": 2.0, "duplicates": 1, "rejected": []},
        {"accepted": 2, "duplicates": 0, "rejected": [{"index": 3, "reason": "?"}]},
        {"accepted": 2, "duplicates": 0, "rejected": [{"index": -1, "reason": "?"}]},
        {"accepted": 1, "duplicates": 0, "rejected": [{"index": 1, "reason": "?"}, {"index": 1, "reason": "?"}]},
        {"accepted": 2, "duplicates": 0, "rejected": ["second"]},
        {"accepted": 2, "duplicates": 0, "rejected": 1},
    ],
)
def test_a_200_without_a_valid_receipt_is_no_delivery(body: Any, server: FaultyServer, open_collector: Open) -> None:
    server.behave(faulty.status(200, body=body))
    outcome = deliver(open_collector(server.url))
    assert outcome.kind == RETRY
    assert "receipt" in outcome.reason


# -- other answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "kind", "told"),
    [
        (faulty.html(200), RETRY, "names a collector"),
        (faulty.status(201), RETRY, "names a collector"),
        (faulty.status(204, body=b""), RETRY, "names a collector"),
        (faulty.status(400), REFUSED, "told to answer 400"),
        (faulty.status(422), REFUSED, "told to answer 422"),
        (faulty.html(400), REFUSED, "400"),
        (faulty.status(400, body=b"The plain HTTP request was sent to HTTPS port"), RETRY, "https://"),
        (faulty.status(401), UNAUTHORIZED, "AGENT_SDK_API_KEY"),
        (faulty.status(403), UNAUTHORIZED, "AGENT_SDK_API_KEY"),
        (faulty.status(404), RETRY, "it has no /api/ingest/batch"),
        (faulty.status(405), RETRY, "it has no /api/ingest/batch"),
        (faulty.status(407), RETRY, "proxy"),
        (faulty.status(409), RETRY, "409"),
        (faulty.status(413), TOO_LARGE, "size"),
        (faulty.status(408), RETRY, "408"),
        (faulty.status(425), RETRY, "425"),
        (faulty.status(429), RETRY, "429"),
        (faulty.status(500), RETRY, "told to answer 500"),
        (faulty.html(502), RETRY, "502"),
        (faulty.status(503), RETRY, "503"),
        (faulty.status(599), RETRY, "599"),
        (faulty.truncated_gzip(), RETRY, "receipt"),
        (faulty.huge(), RETRY, "receipt"),
        (faulty.huge(code=500), RETRY, "500"),
    ],
)
def test_every_status_has_its_outcome(
    behaviour: Behaviour, kind: str, told: str, server: FaultyServer, open_collector: Open
) -> None:
    server.behave(behaviour)
    outcome = deliver(open_collector(server.url))
    assert (outcome.kind, outcome.rejected) == (kind, ())
    assert told in outcome.reason


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_told_and_not_followed(code: int, server: FaultyServer, open_collector: Open) -> None:
    with FaultyServer() as elsewhere:
        target = elsewhere.url.replace("http://", f"http://someone:{PASSWORD}@")
        server.behave(faulty.redirect(f"{target}/login?next={PASSWORD}", code))
        outcome = deliver(open_collector(server.url))
        assert elsewhere.connections == 0
        assert outcome.kind == RETRY
        assert elsewhere.url in outcome.reason
        assert PASSWORD not in outcome.reason


def test_a_redirect_to_a_path_is_told_without_it(server: FaultyServer, open_collector: Open) -> None:
    server.behave(faulty.redirect("/login", 302), faulty.redirect("http://[::1", 302))
    assert "another place" in deliver(open_collector(server.url)).reason
    assert "another place" in deliver(open_collector(server.url)).reason


def test_limits_of_size_are_told(open_collector: Open) -> None:
    with FaultyServer(max_batch_records=2, max_batch_bytes=500) as server:
        destination = open_collector(server.url)
        assert deliver(destination, lines=records(3)).kind == TOO_LARGE
        assert deliver(destination, lines=records(2, padding=500)).kind == TOO_LARGE
        assert deliver(destination, lines=records(2)).kind == DELIVERED


def test_what_follows_an_error_status_does_not_matter(server: FaultyServer, open_collector: Open) -> None:
    head = b"HTTP/1.1 413 Too large\r\nContent-Length: 1000\r\n\r\nhalf"
    server.behave(faulty.garbage(head), faulty.drip(0.001, head.replace(b"413", b"503") + b" " * 900))
    destination = open_collector(server.url)
    assert deliver(destination).kind == TOO_LARGE
    assert "503" in deliver_in_time(destination).reason


# -- Retry-After -------------------------------------------------------------------------------------------------

_HOUR = 3600.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 0 "}, 0.0),
        ({"Retry-After": "86400"}, 300.0),
        ({"Retry-After": "9" * 6000}, 300.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "٣"}, None),
        # The server's clock is an hour off: what counts is the distance between its two dates.
        (
            {
                "Retry-After": formatdate(time.time() - _HOUR + 40, usegmt=True),
                "Date": formatdate(time.time() - _HOUR, usegmt=True),
            },
            40.0,
        ),
        (
            {
                "Retry-After": formatdate(time.time() - 2 * _HOUR, usegmt=True),
                "Date": formatdate(time.time() - _HOUR, usegmt=True),
            },
            0.0,
        ),
    ],
)
@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_read(
    code: int, headers: dict[str, str], seconds: float | None, server: FaultyServer, open_collector: Open
) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    server.behave(faulty.garbage(f"HTTP/1.1 {code} Wait\r\nContent-Length: 0\r\n{head}\r\n".encode()))
    assert deliver(open_collector(server.url)).retry_after == seconds


def test_a_retry_after_date_without_a_date_is_read_by_our_clock(server: FaultyServer, open_collector: Open) -> None:
    server.behave(faulty.status(503, {"Retry-After": formatdate(time.time() + 100, usegmt=True)}))
    wait = deliver(open_collector(server.url)).retry_after
    assert wait is not None
    assert 90 < wait <= 100


# -- no answer ---------------------------------------------------------------------------------------------------


def test_a_missing_local_collector_is_told_with_the_command_that_starts_one(open_collector: Open) -> None:
    with faulty.refused() as url:
        outcome = deliver(open_collector(url))
    reason = f"no collector at {url}: start one with `agent-sdk serve`; records are kept in the journal"
    assert outcome == Outcome(RETRY, reason)


def test_a_collector_that_comes_up_later_is_found(server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url)
    server.down()
    assert "agent-sdk serve" in deliver(destination).reason
    server.up()
    assert deliver(destination).kind == DELIVERED


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (faulty.garbage(), "does not answer with HTTP"),
        (faulty.endless(), "does not answer with HTTP"),
        (faulty.endless(part=b"x" * 70_000), "does not answer with HTTP"),
        (faulty.reset(), "closed the connection"),
        (faulty.reset(after_reading=False), "closed the connection"),
        (faulty.close_at_once(), "closed the connection"),
        (faulty.lose_answer(), "closed the connection"),
        (faulty.garbage(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n{"), ""),
        (faulty.garbage(b"HTTP/1.1 200 OK\r\nnot a header\r\n\r\n{}"), ""),
        (faulty.garbage(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), ""),
        (faulty.close_mid_body(), ""),
    ],
)
def test_a_broken_answer_is_told(behaviour: Behaviour, told: str, server: FaultyServer, open_collector: Open) -> None:
    server.always(behaviour)
    destination = open_collector(server.url)
    outcome = deliver(destination)
    assert outcome.kind == RETRY
    assert told in outcome.reason
    assert server.url in outcome.reason
    server.always(faulty.answer())
    assert deliver(destination).kind == DELIVERED


def test_an_unknown_host_is_told(open_collector: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    outcome = deliver(open_collector("http://collector.test"))
    assert outcome.kind == RETRY
    assert "Name or service not known" in outcome.reason
    assert "DNS" in outcome.reason


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "collector.test:8790", "ftp://x.test", "http://", "http://[::1", "http://x:99999", "http://a b/"],
)
def test_an_address_that_is_none_is_told(url: str, open_collector: Open) -> None:
    outcome = deliver(open_collector(url))
    assert outcome.kind == RETRY
    assert "AGENT_SDK_BASE_URL" in outcome.reason


@pytest.mark.parametrize("host", ["x" * 64 + ".test", "-.test", "*.test", "xn--\u0660.test", "..", "%zz.test"])
def test_a_host_that_cannot_be_is_told(host: str, open_collector: Open) -> None:
    outcome = deliver(open_collector(f"http://{host}"))
    assert outcome.kind == RETRY
    assert "AGENT_SDK_BASE_URL" in outcome.reason


def test_the_second_address_is_tried_when_the_first_hangs(
    server: FaultyServer, open_collector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty.unreachable() as url:
        ports = [int(url.rpartition(":")[2]), server.port]
        addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: addresses)
        destination = open_collector("http://collector.test", connect_timeout=DEADLINE)
        assert deliver(destination, 5.0).kind == DELIVERED


def test_all_addresses_together_get_the_time_of_one(open_collector: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty.unreachable() as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)] * 50
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
        outcome = deliver_in_time(open_collector("http://collector.test"))
    assert "no connection" in outcome.reason


# -- one deadline ------------------------------------------------------------------------------------------------

SLOW: dict[str, Behaviour] = {
    "before the request is read": faulty.hang("request"),
    "before the answer": faulty.hang("headers"),
    "within the headers": faulty.hang("half"),
    "within the body": faulty.hang("body"),
    "dripping": faulty.drip(0.02),
    "dripping the body": faulty.drip(0.02, b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b" " * 9000),
    "dripping chunks": faulty.drip(
        0.02, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 999
    ),
    "reading slowly": faulty.slow_read(0.02),
    "endless interim answers": faulty.endless(b"HTTP/1.1 100 Continue\r\n\r\n", start=b""),
}


@pytest.mark.parametrize("behaviour", SLOW.values(), ids=SLOW)
@pytest.mark.parametrize("reused", [False, True], ids=["new connection", "kept connection"])
def test_no_server_exceeds_the_deadline(
    behaviour: Behaviour, reused: bool, server: FaultyServer, open_collector: Open
) -> None:
    destination = open_collector(server.url)
    if reused:
        assert deliver(destination).kind == DELIVERED
    server.behave(behaviour)
    noise = [os.urandom(2_000_000).hex().encode() + b"\n"]  # more than sockets buffer
    outcome = deliver_in_time(destination, noise if "slow_read" in behaviour.__qualname__ else None)
    assert outcome.kind == RETRY
    assert "in time" in outcome.reason
    assert deliver(destination).kind == DELIVERED


def test_connecting_exceeds_neither_its_own_time_nor_the_deadline(open_collector: Open) -> None:
    with faulty.unreachable() as url:
        assert "no connection" in deliver_in_time(open_collector(url)).reason
        began = time.monotonic()
        assert "no connection" in deliver(open_collector(url, connect_timeout=DEADLINE)).reason
        assert time.monotonic() - began < DEADLINE + GRACE


def test_the_timeout_of_a_request_holds_where_the_deadline_is_later(server: FaultyServer, open_collector: Open) -> None:
    server.behave(faulty.hang())
    began = time.monotonic()
    assert "in time" in deliver(open_collector(server.url, timeout=DEADLINE), 60.0).reason
    assert time.monotonic() - began < DEADLINE + GRACE


def test_no_request_is_made_after_the_deadline(server: FaultyServer, open_collector: Open) -> None:
    assert deliver(open_collector(server.url), -1.0).kind == RETRY
    assert server.requests == []


def test_a_second_attempt_gets_no_time_of_its_own(server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url)
    deliver(destination)
    server.behave(faulty.close_at_once(), faulty.hang())
    assert "in time" in deliver_in_time(destination).reason


# -- bounded memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour",
    [
        faulty.huge(16 * 1024 * 1024),
        faulty.gzip_bomb(),
        faulty.endless(b"x" * 65_536, start=b"HTTP/1.1 200 OK\r\n\r\n"),
        faulty.endless(b"x" * 65_536, start=b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n"),
        faulty.endless(b"x" * 65_536, start=b"HTTP/1.1 500 Oh\r\n\r\n"),
    ],
    ids=["huge", "bomb", "endless", "endless redirect", "endless error"],
)
def test_an_answer_of_any_size_costs_little(behaviour: Behaviour, open_collector: Open) -> None:
    # In a process of its own, since the server's memory would be counted with ours.
    pid, port = _serve_in_child(behaviour)
    try:
        destination = open_collector(f"http://127.0.0.1:{port}")
        tracemalloc.start()
        assert deliver(destination, 2.0).kind == RETRY
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def _serve_in_child(behaviour: Behaviour) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            server = FaultyServer().always(behaviour)
            os.write(writing, str(server.port).encode())
            time.sleep(60)
        finally:
            os._exit(0)
    os.close(writing)
    port = int(os.read(reading, 16))
    os.close(reading)
    return pid, port


# -- the connection ----------------------------------------------------------------------------------------------


def test_one_connection_is_kept(server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url)
    server.behave(faulty.answer(), faulty.status(500), faulty.status(413), faulty.reject("s-1"))
    for _ in range(6):
        deliver(destination)
    assert server.connections == 1


def test_an_idle_connection_is_left_before_the_server_closes_it(
    server: FaultyServer, open_collector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = open_collector(server.url)
    deliver(destination)
    monkeypatch.setattr("agent_sdk.delivery.destinations.transport.IDLE_SECONDS", -1.0)
    assert deliver(destination).kind == DELIVERED
    assert server.connections == 2


@pytest.mark.parametrize("way", [faulty.close_at_once(), faulty.lose_answer(), faulty.reset(), faulty.reset(False)])
def test_a_stale_connection_is_replaced_once(way: Behaviour, server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url)
    deliver(destination)
    server.behave(way)
    assert deliver(destination).kind == DELIVERED
    assert server.connections == 2
    server.behave(way, way)
    assert deliver(destination).kind == RETRY
    assert server.connections == 3


def test_a_new_connection_that_fails_is_not_tried_twice(server: FaultyServer, open_collector: Open) -> None:
    server.behave(faulty.lose_answer())
    assert deliver(open_collector(server.url)).kind == RETRY
    assert server.connections == 1


def test_an_answer_that_broke_off_is_not_asked_for_again_at_once(server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url)
    deliver(destination)
    server.behave(faulty.close_mid_body())
    assert deliver(destination).kind == RETRY
    assert server.connections == 1


def test_a_delivery_after_close_connects_again(server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url)
    destination.close()
    deliver(destination)
    destination.close()
    destination.close()
    assert deliver(destination).kind == DELIVERED
    assert server.connections == 2


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the platform does not list descriptors")
def test_no_descriptor_is_left_behind(server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url)
    deliver(destination)
    destination.close()
    server.wait_until(lambda: not server._open)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for behaviour in [faulty.answer(), faulty.html(), faulty.reset(), faulty.close_mid_body(), faulty.huge()] * 5:
        server.behave(behaviour)
        deliver(destination)
    destination.close()
    server.wait_until(lambda: not server._open)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_uses_a_connection_of_its_own(server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url)
    deliver(destination)
    pid = os.fork()
    if pid == 0:
        delivered = deliver(destination, lines=records(1, start=100)).kind == DELIVERED
        os._exit(0 if delivered else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert deliver(destination).kind == DELIVERED
    assert [request.connection for request in server.requests] == [1, 2, 1]


# -- abort -------------------------------------------------------------------------------------------------------


def deliver_in_thread(destination: CollectorDestination) -> Callable[[], Outcome]:
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(deliver(destination, 30.0)))
    thread.start()

    def finish() -> Outcome:
        thread.join(2.0)
        assert outcomes, "the delivery did not end"
        return outcomes[0]

    return finish


@pytest.mark.parametrize("where", ["headers", "half", "body"])
def test_abort_ends_a_delivery_at_once(where: str, server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url, timeout=30.0)
    server.behave(faulty.hang(where))
    finish = deliver_in_thread(destination)
    server.wait_until(lambda: server.requests)
    destination.abort()
    outcome = finish()
    assert outcome.kind == RETRY
    assert "broken off" in outcome.reason
    assert deliver(destination).kind == DELIVERED


def test_abort_ends_a_slow_upload(server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url, timeout=30.0)
    server.behave(faulty.slow_read(0.05))
    lines = [os.urandom(4_000_000).hex().encode() + b"\n"]
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(deliver(destination, 30.0, lines)))
    thread.start()
    server.wait_until(lambda: server._script == [])
    destination.abort()
    thread.join(2.0)
    assert "broken off" in outcomes[0].reason


def test_abort_ends_connecting(open_collector: Open) -> None:
    with faulty.unreachable() as url:
        destination = open_collector(url, timeout=30.0, connect_timeout=30.0)
        deliver(destination, 0.01)  # requests is loaded
        finish = deliver_in_thread(destination)
        while destination._transport._watch.handle is None:  # type: ignore[union-attr]
            time.sleep(0.001)
        time.sleep(0.05)  # until it connects
        destination.abort()
        assert "broken off" in finish().reason


def test_abort_ends_a_delivery_that_has_no_socket_yet(server: FaultyServer) -> None:
    destination: CollectorDestination

    def key() -> str:
        destination.abort()  # comes while the request is prepared
        return KEY

    destination = CollectorDestination(server.url, key)
    assert "broken off" in deliver(destination).reason
    assert server.connections == 0


def test_abort_without_a_delivery_changes_nothing(server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(server.url)
    destination.abort()
    assert deliver(destination).kind == DELIVERED
    destination.abort()
    assert deliver(destination).kind == DELIVERED


# -- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    pytest.importorskip("trustme", exc_type=ImportError)
    with FaultyServer(tls=True) as running:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", running.ca_file)
        yield running
        assert running.errors == []


def test_tls_with_a_trusted_certificate(tls_server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(tls_server.url)
    assert deliver(destination, lines=records(2000, padding=500)).kind == DELIVERED
    assert deliver(destination).kind == DELIVERED
    assert tls_server.connections == 1


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    tls_server: FaultyServer, open_collector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    outcome = deliver(open_collector(tls_server.url))
    assert outcome.kind == RETRY
    assert "not trusted" in outcome.reason
    assert "REQUESTS_CA_BUNDLE" in outcome.reason
    assert tls_server.requests == []


def test_a_certificate_for_another_host_is_not_trusted(
    tls_server: FaultyServer, open_collector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", tls_server.port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [address])
    assert "not trusted" in deliver(open_collector("https://other.test")).reason
    assert tls_server.requests == []


@pytest.mark.parametrize("behaviour", SLOW.values(), ids=SLOW)
def test_no_tls_server_exceeds_the_deadline(
    behaviour: Behaviour, tls_server: FaultyServer, open_collector: Open
) -> None:
    tls_server.behave(behaviour)
    noise = [os.urandom(2_000_000).hex().encode() + b"\n"]
    lines = noise if "slow_read" in behaviour.__qualname__ else None
    assert "in time" in deliver_in_time(open_collector(tls_server.url), lines).reason


def test_a_handshake_that_hangs_ends_by_the_deadline_and_by_abort(
    tls_server: FaultyServer, open_collector: Open
) -> None:
    tls_server.accept_delay = 30.0
    destination = open_collector(tls_server.url, timeout=30.0)
    assert "in time" in deliver_in_time(destination).reason
    finish = deliver_in_thread(destination)
    tls_server.wait_until(lambda: tls_server.connections == 2)
    time.sleep(0.05)  # until it is in the handshake
    destination.abort()
    assert "broken off" in finish().reason


def test_abort_ends_a_delivery_over_tls(tls_server: FaultyServer, open_collector: Open) -> None:
    tls_server.behave(faulty.hang())
    destination = open_collector(tls_server.url, timeout=30.0)
    finish = deliver_in_thread(destination)
    tls_server.wait_until(lambda: tls_server.requests)
    destination.abort()
    assert "broken off" in finish().reason


def test_a_stale_tls_connection_is_replaced(tls_server: FaultyServer, open_collector: Open) -> None:
    destination = open_collector(tls_server.url)
    deliver(destination)
    tls_server.drop_connections()
    assert deliver(destination).kind == DELIVERED
    assert tls_server.connections == 2


def test_a_server_without_tls_is_told(server: FaultyServer, open_collector: Open) -> None:
    server.always(faulty.garbage(b"HTTP/1.1 400 Bad request\r\n\r\n"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer_plainly, args=(listener,))
        thread.start()
        outcome = deliver(open_collector(f"https://127.0.0.1:{listener.getsockname()[1]}"))
        thread.join(5.0)
    assert outcome.kind == RETRY
    assert "no TLS" in outcome.reason


def _answer_plainly(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 400 Bad request\r\n\r\n")


def test_a_missing_file_of_authorities_is_told(
    open_collector: Open, monkeypatch: pytest.MonkeyPatch, server: FaultyServer
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    outcome = deliver(open_collector(server.url.replace("http", "https")))
    assert outcome.kind == RETRY
    assert "REQUESTS_CA_BUNDLE" in outcome.reason


# -- proxies -----------------------------------------------------------------------------------------------------


def test_a_proxy_of_the_environment_is_used(
    server: FaultyServer, open_collector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url.replace("http://", f"http://someone:{PASSWORD}@"))
    monkeypatch.setenv("http_proxy", os.environ["HTTP_PROXY"])
    assert deliver(open_collector("http://collector.test")).kind == DELIVERED
    (request,) = server.requests
    assert request.path == "http://collector.test/api/ingest/batch"
    assert request.headers["proxy-authorization"].startswith("Basic ")


def test_no_proxy_stands_between_a_program_and_this_machine(
    server: FaultyServer, open_collector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyServer() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert deliver(open_collector(server.url)).kind == DELIVERED
        assert proxy.connections == 0


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [(faulty.status(407), "407"), (faulty.status(503), "503"), (faulty.close_at_once(), "proxy")],
)
def test_a_proxy_that_opens_no_tunnel_is_told(
    behaviour: Behaviour, told: str, server: FaultyServer, open_collector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", server.url.replace("http://", f"http://someone:{PASSWORD}@"))
    server.always(behaviour)
    outcome = deliver(open_collector("https://collector.test"))
    assert outcome.kind == RETRY
    assert "HTTPS_PROXY" in outcome.reason
    assert told in outcome.reason
    assert PASSWORD not in outcome.reason


def test_a_proxy_that_does_not_run_is_told(open_collector: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty.refused() as url:
        monkeypatch.setenv("https_proxy", url)
        outcome = deliver(open_collector("https://collector.test"))
    assert "the proxy to https://collector.test fails (refused)" in outcome.reason


@pytest.mark.parametrize("address", ["http://", "nonsense://127.0.0.1:1", "http://[::1"])
def test_a_proxy_address_that_is_none_is_told(
    address: str, open_collector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", address)
    outcome = deliver(open_collector("https://collector.test"))
    assert outcome.kind == RETRY
    assert "PROXY" in outcome.reason


@pytest.mark.parametrize(
    "behaviour", [faulty.hang("request"), faulty.hang("half"), faulty.drip(0.02)], ids=["silent", "half", "dripping"]
)
def test_no_proxy_exceeds_the_deadline(
    behaviour: Behaviour, server: FaultyServer, open_collector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", server.url)
    server.behave(behaviour)
    assert deliver_in_time(open_collector("https://collector.test")).kind == RETRY


def test_tls_through_a_tunnel(
    server: FaultyServer, tls_server: FaultyServer, open_collector: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", server.url)
    server.always(faulty.tunnel("127.0.0.1", tls_server.port))
    destination = open_collector("https://collector.test")
    assert deliver(destination, lines=records(500, padding=500)).kind == DELIVERED
    assert server.requests[0].path == "collector.test:443"
    assert "x-agentscope-key" not in server.requests[0].headers
    tls_server.behave(faulty.drip(0.02))
    assert "in time" in deliver_in_time(destination).reason


# -- robustness --------------------------------------------------------------------------------------------------


def test_an_installation_without_requests_is_told() -> None:
    code = """
        import sys, time
        sys.modules["requests"] = None
        from agent_sdk.delivery.destinations.collector import CollectorDestination
        print(CollectorDestination("http://127.0.0.1:1", lambda: "k").deliver([b"{}\\n"], time.monotonic() + 5))
    """
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=30
    )
    assert "retry" in told.stdout
    assert "requests" in told.stdout


def test_nothing_is_lost_in_a_chaos_of_faults(server: FaultyServer, open_collector: Open) -> None:
    server.chaos(seed=7, faults=faulty.usual_faults(interval=0.005), well=0.3)
    destination = open_collector(server.url)
    claimed: set[str] = set()
    for number in range(1, 121):
        outcome = deliver(destination, 0.2, records(1, start=number))
        assert outcome.kind in (DELIVERED, RETRY)
        if outcome.kind == DELIVERED:
            claimed.add(f"s-{number}")
    assert claimed
    assert claimed <= set(server.records)
