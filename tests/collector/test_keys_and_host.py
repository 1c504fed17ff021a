"""Who may send, who may look, and what the database would tell a thief."""

from __future__ import annotations

import socket
import sqlite3
from urllib.parse import urlsplit

import pytest
import requests

from agent_sdk.collector import Store, create_app, create_key, ensure_project
from agent_sdk.collector.keys import project_of, revoke_key
from agent_sdk.wire.records import WIRE_VERSION
from agent_sdk.wire.version import __version__
from tests.collector.making import ndjson, run_id


class TestKeys:
    @pytest.mark.parametrize("header", ["X-Agentscope-Key", "Authorization"])
    def test_a_key_is_taken_in_either_header(self, collector, stream, header):
        value = collector.key if header != "Authorization" else f"bearer  {collector.key}"
        url = collector.url + "/api/ingest/batch"
        answer = requests.post(url, ndjson([stream.start(1)]), headers={header: value}, timeout=20)
        assert (answer.status_code, answer.json()["accepted"]) == (200, 1)

    @pytest.mark.parametrize(
        "headers", [{}, {"X-Agentscope-Key": ""}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer "}]
    )
    def test_a_missing_key_is_401_and_says_how_to_send_one(self, collector, stream, headers):
        url = collector.url + "/api/ingest/batch"
        answer = requests.post(url, ndjson([stream.start(1)]), headers=headers, timeout=20)
        assert answer.status_code == 401
        assert answer.json() == {"detail": "a key is missing: send it as X-Agentscope-Key or as a bearer token"}
        assert collector.runs() == []

    @pytest.mark.parametrize("change", [str.upper, lambda key: key[:-1], lambda key: key + "x", lambda key: "\xfc"])
    def test_a_wrong_key_is_401_and_stores_nothing(self, collector, stream, change):
        answer = collector.post(ndjson([stream.start(1)]), key=change(collector.key))
        assert (answer.status_code, answer.json()) == (401, {"detail": "this key is wrong or revoked"})
        assert collector.runs() == []

    def test_a_revoked_key_is_wrong_and_other_keys_stay_good(self, shelf):
        gone, kept = create_key(shelf.store, shelf.project, "gone"), create_key(shelf.store, shelf.project, "kept")
        assert project_of(shelf.store, gone) == shelf.project
        revoke_key(shelf.store, gone)
        assert project_of(shelf.store, gone) is None
        assert project_of(shelf.store, kept) == shelf.project

    def test_no_key_can_be_read_out_of_the_database_files(self, tmp_path):
        store = Store(tmp_path / "collector.db")
        made = [create_key(store, ensure_project(store), f"key {number}") for number in range(20)]
        with store.read() as connection:
            held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
            digests = connection.exec_driver_sql("SELECT digest, prefix FROM keys").fetchall()
        store.close()
        assert len(set(made)) == len({digest for digest, _ in digests}) == 20
        for key in made:
            assert len(key) > 40
            assert key[8:20].encode() not in held
            assert key[-12:].encode() not in held

    def test_a_project_is_made_once_and_a_key_belongs_to_its_own(self, shelf):
        other = ensure_project(shelf.store, "other")
        assert ensure_project(shelf.store, "other") == other != shelf.project
        assert ensure_project(shelf.store) == shelf.project
        assert project_of(shelf.store, create_key(shelf.store, other, "k")) == other

    def test_senders_of_two_projects_do_not_meet(self, collector, stream):
        # The same ids under another key are other records, not duplicates.
        database = collector.home / "collector.db"
        second = Store(database)
        key = create_key(second, ensure_project(second, "second"), "k")
        second.close()
        body = ndjson([stream.start(1)])
        assert collector.post(body).json()["accepted"] == 1
        assert collector.post(body, key=key).json()["accepted"] == 1
        connection = sqlite3.connect(database)
        assert connection.execute("SELECT count(DISTINCT project_id) FROM runs").fetchone() == (2,)
        connection.close()


class TestHost:
    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost:8123", "[::1]", "[::1]:80", "127.0.0.1:1"])
    def test_a_loopback_name_is_answered(self, collector, host):
        assert requests.get(collector.url + "/health", headers={"Host": host}, timeout=20).status_code == 200

    @pytest.mark.parametrize(
        "host",
        [
            *("evil.example", "evil.example:8123", "127.0.0.1.evil.example", "localhost.evil.example:80", "0.0.0.0"),
            *("192.168.0.7:8123", "[::2]", "[::1].evil.example", "evil.example@127.0.0.1", "", ":80", "2130706433"),
        ],
    )
    def test_another_name_is_421_as_it_may_be_a_strangers_page(self, collector, host):
        answer = requests.get(collector.url + "/api/v1/runs", headers={"Host": host}, timeout=20, allow_redirects=False)
        assert answer.status_code == 421
        assert "http://127.0.0.1" in answer.json()["detail"]

    @pytest.mark.parametrize("path", ["/", "/runs", "/health", "/static/style.css", "/api/v1/live", "/nothing"])
    def test_the_check_comes_before_every_route(self, collector, path):
        answer = requests.get(collector.url + path, headers={"Host": "evil.example"}, timeout=20)
        assert answer.status_code == 421

    def test_nothing_is_stored_from_under_another_name_even_with_a_key(self, collector, stream):
        assert collector.post(ndjson([stream.start(1)]), Host="evil.example").status_code == 421
        assert collector.runs() == []

    def test_a_request_without_a_host_is_refused(self, collector):
        address = urlsplit(collector.url)
        with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
            connection.sendall(b"GET /api/v1/runs HTTP/1.0\r\n\r\n")
            assert b" 421 " in connection.makefile("rb").readline()

    def test_a_lifespan_message_is_no_request_and_passes(self, shelf):
        import asyncio

        app, said = create_app(shelf.store), []

        async def receive():
            return {"type": "lifespan.startup" if not said else "lifespan.shutdown"}

        async def send(message):
            said.append(message["type"])

        asyncio.run(app({"type": "lifespan"}, receive, send))
        assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


class TestHealth:
    def test_health_names_the_service_and_its_versions_without_a_key(self, collector):
        assert collector.get("/health") == {
            "status": "healthy",
            "service": "agent-sdk-collector",
            "version": __version__,
            "wire": WIRE_VERSION,
        }

    def test_an_unknown_path_is_404(self, collector):
        assert requests.get(collector.url + "/api/v2/runs", timeout=20).status_code == 404
        assert requests.get(f"{collector.url}/api/v1/runs/{run_id(1)}/else", timeout=20).status_code == 404
