"""Twelve ways to set it up wrongly, each named with its fix by `agent-sdk doctor`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support import faulty_server
from tests.support.collector import collector_process
from tests.support.faulty_server import FaultyServer

HEALTHY = b'{"status": "healthy", "service": "agent-sdk-collector", "version": "1", "wire": 1}'


def examined(home, *arguments, **settings):
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment.update({"AGENT_SDK_HOME": str(home), **settings})
    command = [sys.executable, "-m", "agent_sdk", "doctor", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert ran.stderr == ""
    return ran


def found(home, **settings):
    """The exit code and the findings that are not good, by check."""
    ran = examined(home, "--json", **settings)
    findings = json.loads(ran.stdout)
    return ran.returncode, {
        item["check"]: f"{item['text']} → {item['fix']}" for item in findings if item["state"] != "ok"
    }


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    with collector_process(tmp_path_factory.mktemp("home")) as collector:
        yield collector


@pytest.fixture
def well(collector):
    """Settings with which everything arrives."""
    return {"home": collector.home, "AGENT_SDK_BASE_URL": collector.url}


class TestHealth:
    def test_where_all_is_well_it_says_so_and_shows_the_test_run(self, collector, well):
        home = well.pop("home")
        ran = examined(home, **well)
        assert ran.returncode == 0
        assert "Everything that is recorded here arrives." in ran.stdout
        assert any(run["agent_name"] == "agent-sdk doctor" for run in collector.runs())
        assert f"{collector.url}/runs/" in ran.stdout

    def test_where_each_setting_came_from_is_said_and_no_key_is_shown(self, collector, well):
        home = well.pop("home")
        said = examined(home, **well, AGENT_SDK_API_KEY=collector.key, AGENT_SDK_FLUSH_INTERVAL="1").stdout
        assert "AGENT_SDK_FLUSH_INTERVAL=1.0" in said
        assert f"[{len(collector.key)} characters]" in said
        assert collector.key not in said

    def test_a_file_as_a_destination_is_tried_too(self, tmp_path):
        code, wrong = found(tmp_path, AGENT_SDK_BASE_URL=f"file://{tmp_path}/records.ndjson")
        assert (code, wrong) == (0, {})
        assert b"agent-sdk doctor" in (tmp_path / "records.ndjson").read_bytes()


class TestTwelveMistakes:
    def test_1_it_is_switched_off(self, well):
        code, wrong = found(**well, AGENT_SDK_DISABLED="1")
        assert code == 1
        assert "unset AGENT_SDK_DISABLED" in wrong["recording"]

    def test_2_the_address_is_none(self, well):
        well["AGENT_SDK_BASE_URL"] = "localhost:8790"
        code, wrong = found(**well)
        assert code == 1
        assert "AGENT_SDK_BASE_URL: 'localhost:8790' is no address: write it like" in wrong["settings"]

    def test_3_a_setting_is_misspelt(self, well):
        code, wrong = found(**well, AGENT_SDK_APIKEY="k")
        assert code == 0
        assert wrong["settings"] == "AGENT_SDK_APIKEY is no setting → write AGENT_SDK_API_KEY"

    def test_4_no_collector_is_running(self, tmp_path):
        code, wrong = found(tmp_path, AGENT_SDK_BASE_URL="http://127.0.0.1:9")
        assert code == 1
        assert "start one with `agent-sdk serve`" in wrong["delivery"]

    def test_5_the_host_is_unknown(self, tmp_path):
        settings = {"AGENT_SDK_BASE_URL": "https://collector.invalid", "AGENT_SDK_API_KEY": "k"}
        code, wrong = found(tmp_path, **settings)
        assert code == 1
        assert "check the spelling in AGENT_SDK_BASE_URL" in wrong["name"]

    def test_6_the_key_is_wrong(self, well):
        code, wrong = found(**well, AGENT_SDK_API_KEY="ask_wrong_wrong_wrong_wrong")
        assert code == 1
        assert "AGENT_SDK_API_KEY" in wrong["delivery"]
        assert "key" in wrong["delivery"]

    def test_7_the_key_was_copied_with_its_quotes(self, collector, well):
        code, wrong = found(**well, AGENT_SDK_API_KEY=f'"{collector.key}"')
        assert code == 1
        assert "remove the quotes" in wrong["key"]

    def test_8_a_key_is_missing_for_a_remote_collector(self, tmp_path):
        code, wrong = found(tmp_path, AGENT_SDK_BASE_URL="https://collector.invalid")
        assert code == 1
        assert "set AGENT_SDK_API_KEY" in wrong["key"]

    def test_9_something_else_answers_there(self, tmp_path):
        with FaultyServer() as server:
            server.always(faulty_server.html())
            code, wrong = found(tmp_path, AGENT_SDK_BASE_URL=server.url, AGENT_SDK_API_KEY="k")
        assert code == 1
        assert "check host, port and path in AGENT_SDK_BASE_URL" in wrong["collector"]

    def test_10_it_moved_to_another_address(self, tmp_path):
        with FaultyServer() as server:
            server.always(faulty_server.redirect("https://new.example/base/health"))
            code, wrong = found(tmp_path, AGENT_SDK_BASE_URL=server.url, AGENT_SDK_API_KEY="k")
        assert code == 1
        assert "https://new.example" in wrong["collector"]

    def test_11_its_certificate_is_not_trusted(self, tmp_path):
        pytest.importorskip("trustme")
        with FaultyServer(tls=True) as server:
            code, wrong = found(tmp_path, AGENT_SDK_BASE_URL=server.url, AGENT_SDK_API_KEY="k")
        assert code == 1
        assert "REQUESTS_CA_BUNDLE" in wrong["delivery"]

    def test_12_https_is_said_to_a_plain_server(self, well):
        well["AGENT_SDK_BASE_URL"] = well["AGENT_SDK_BASE_URL"].replace("http:", "https:")
        code, wrong = found(**well)
        assert code == 1
        assert "http://" in wrong["delivery"]

    def test_13_the_proxy_is_broken(self, tmp_path):
        settings = {"AGENT_SDK_BASE_URL": "http://collector.invalid", "AGENT_SDK_API_KEY": "k"}
        code, wrong = found(tmp_path, **settings, HTTP_PROXY="http://user:canary@127.0.0.1:9")
        assert code == 1
        assert "HTTP_PROXY" in wrong["delivery"]
        assert "canary" not in str(wrong)

    def test_14_the_journal_cannot_be_written(self, tmp_path, well):
        blocked = tmp_path / "file"
        blocked.write_text("")
        well["home"] = blocked / "home"
        code, wrong = found(**well)
        assert code == 1
        assert "set AGENT_SDK_HOME" in wrong["journal"]

    def test_15_the_clock_is_wrong(self, tmp_path):
        def late(exchange):
            exchange.respond(
                200, HEALTHY, {"Date": "Mon, 01 Jan 2001 00:00:00 GMT", "Content-Type": "application/json"}
            )

        with FaultyServer() as server:
            server.always(late)
            _, wrong = found(tmp_path, AGENT_SDK_BASE_URL=server.url, AGENT_SDK_API_KEY="k")
        assert "synchronise the clock" in wrong["clock"]

    def test_16_a_setting_has_no_meaning(self, well):
        code, wrong = found(**well, AGENT_SDK_FLUSH_INTERVAL="soon")
        assert code == 1
        assert "correct or unset AGENT_SDK_FLUSH_INTERVAL" in wrong["settings"]

    def test_17_records_wait_and_were_refused(self, tmp_path, well):
        from agent_sdk.delivery.journal import Journal, Manifest, quarantine

        home = str(tmp_path / "home")
        journal = Journal.create(home, Manifest("aa", "http://127.0.0.1:9", "", 1, 0.0), 1 << 30)
        journal.append([b"x" * 1000 + b"\n"] * 1100)
        journal.close()
        quarantine(home, "aa", b"{}\n", "no")
        well["home"] = home
        _, wrong = found(**well)
        assert "agent-sdk push" in wrong["backlog"]
        assert "quarantine" in wrong["quarantine"]

    def test_18_a_server_that_hangs_is_given_up(self, tmp_path):
        with FaultyServer() as server:
            server.always(faulty_server.hang())
            code, wrong = found(tmp_path, AGENT_SDK_BASE_URL=server.url, AGENT_SDK_API_KEY="k")
        assert code == 1
        assert "records are kept and sent again" in wrong["delivery"]
