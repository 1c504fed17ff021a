"""Promise 6: a hundred planted secrets reach neither disk, socket, log nor page; off means off."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import subprocess
import sys

import pytest

import agent_sdk
from tests.encoding.test_redaction import KEYS, SECRETS
from tests.support import faulty_server
from tests.support.faulty_server import FaultyServer

#: In place of the short secrets of those texts, which are words that may be seen elsewhere.
UNSAYABLE = "unsayable-bird"
PLANTED = [(text, secret) for text, secret in SECRETS if "canary-user" not in text]
TEXTS = [text.replace("canary", UNSAYABLE) if len(secret) < 9 else text for text, secret in PLANTED]
#: What must be seen nowhere: the secret part of each text.
CANARIES = sorted({UNSAYABLE, *(secret for _, secret in PLANTED if len(secret) > 8)})


def plant(tracker):
    """Secrets in every field, key, exception, stack, header, URL, tag, chunk and argument."""
    texts = TEXTS

    @tracker.track
    def tool(argument, password=UNSAYABLE):
        raise RuntimeError(f"cannot call {argument}")

    @tracker.track
    def stream():
        for text in texts:
            yield f"{text} "

    with tracker.track_run(texts[0], input_data=texts, session_id=texts[1], user_id=texts[2], tags=texts) as run:
        run.set_metadata(dict.fromkeys(KEYS, UNSAYABLE), headers=[["Authorization", "Bearer canary.canary-canary"]])
        list(stream())
        for number, text in enumerate(texts):
            with run.child(text, text, {text: {"nested": [text]}}) as step:
                step.set_model(text).set_metadata({text: text}).add_tags(text)
                step.set_output(json.dumps({"password": UNSAYABLE, "text": text}))
            tracker.track_step(f"{number}", "tool_call", {"kwargs": repr({"api_key": UNSAYABLE})}, error=text)
            try:
                tool(text)
            except RuntimeError:
                pass
        run.set_error({"type": texts[3], "message": texts[4], "stack": texts[5]})
    return run


def searched(data, where):
    found = [canary for canary in CANARIES if canary.encode() in data]
    assert not found, f"{found} in {where}"


class TestPlantedSecrets:
    def test_there_are_a_hundred_of_them(self):
        """Seven plantings of each text in each run, and one for each key."""
        assert 7 * len(TEXTS) + len(KEYS) > 100
        assert len(CANARIES) == 5

    @pytest.mark.parametrize("durability", ["journal", "strict"])
    def test_none_reaches_the_disk(self, tmp_path, durability):
        tracker = agent_sdk.create_tracker(
            "ask_canary-key-0123456789", f"http://me:{UNSAYABLE}@127.0.0.1:9", home=str(tmp_path), durability=durability
        )
        plant(tracker)
        tracker.close(0.5)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.suffix == ".ndjson" and path.stat().st_size > 10_000 for path in files)
        for path in files:
            searched(path.read_bytes(), path.name)

    def test_none_reaches_the_socket_or_the_quarantine(self, tmp_path):
        with FaultyServer() as server:
            server.always(faulty_server.answer(lambda record: "odd" if record["type"] == "run.end" else None))
            tracker = agent_sdk.create_tracker("key-of-the-test", server.url, home=str(tmp_path))
            plant(tracker)
            tracker.close(20)
            assert server.requests
            for request in server.requests:
                searched(request.body, "a request")
                searched(repr(request.headers).encode(), "headers")
        kept = list((tmp_path / "quarantine").iterdir())
        assert kept
        for path in kept:
            searched(path.read_bytes(), "the quarantine")

    def test_none_reaches_the_log_whatever_goes_wrong(self, tmp_path, caplog):
        caplog.set_level(logging.DEBUG)
        for answer in (faulty_server.status(401), faulty_server.status(500, body="canarycanary"), faulty_server.hang()):
            with FaultyServer() as server:
                server.always(answer)
                url = server.url.replace("http://", "http://me:canarycanary@")
                key = "sk-canary0123456789canary"
                tracker = agent_sdk.create_tracker(key, url, home=str(tmp_path), request_timeout=0.5)
                plant(tracker)
                tracker.flush(1.0)
                tracker.close(0.2)
        agent_sdk.create_tracker("canary canary0123456789", "ftp://me:canarycanary@host").close()
        assert caplog.records
        searched("\n".join(record.getMessage() for record in caplog.records).encode(), "the log")

    def test_none_reaches_a_page(self, tmp_path):
        pytest.importorskip("starlette")
        import requests

        from tests.support.collector import running_collector

        with running_collector(tmp_path) as collector:
            tracker = agent_sdk.create_tracker(collector.key, collector.url, home=str(tmp_path / "home"))
            run = plant(tracker)
            assert tracker.close(20).complete
            pages = ["/runs", f"/runs/{run}", "/api/v1/runs", f"/api/v1/runs/{run}", f"/api/v1/runs/{run}/steps"]
            steps = collector.steps(str(run))
            pages += [f"/runs/{run}?step={step['step_id']}" for step in steps[:20]]
            for page in pages:
                answer = requests.get(collector.url + page, timeout=20)
                assert answer.status_code == 200
                searched(answer.content, page)
        searched((tmp_path / "collector.db").read_bytes(), "the database")


class TestMasksThatFail:
    @pytest.mark.parametrize("kind", ["raises", "hangs", "nonsense"])
    def test_the_field_is_withheld(self, tmp_path, kind):
        import threading

        let_go = threading.Event()
        masks = {
            "raises": lambda field, value: 1 / 0,
            "hangs": lambda field, value: let_go.wait(30),
            "nonsense": lambda field, value: object(),
        }
        path = tmp_path / "records.ndjson"
        tracker = agent_sdk.create_tracker(base_url=f"file://{path}", home=str(tmp_path), redact=masks[kind])
        if kind == "hangs":
            tracker._recorder.redactor._mask._patience = 0.05
        with tracker.track_run("agent", input_data="canarycanary") as run:
            run.child("canarycanary").end()
        tracker.close(20)
        let_go.set()
        assert b"[withheld: masking failed]" in path.read_bytes()
        searched(path.read_bytes(), "the file")


class TestFiles:
    def test_only_their_owner_can_read_them(self, tmp_path):
        before = os.umask(0)
        try:
            tracker = agent_sdk.create_tracker("key", "http://127.0.0.1:9", home=str(tmp_path / "home"))
            tracker.track_run("a").end()
            tracker.close(0.5)
        finally:
            os.umask(before)
        for path in (tmp_path / "home").rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), path

    def test_a_link_leads_no_record_astray(self, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        home = tmp_path / "home"
        home.mkdir()
        (home / "journal").symlink_to(elsewhere)
        tracker = agent_sdk.create_tracker("key", "http://127.0.0.1:9", home=str(home))
        tracker.track_run("a").end()
        result = tracker.close(0.5)
        assert list(elsewhere.iterdir()) == []
        assert result.balanced
        assert result.dropped


@pytest.mark.skipif(not shutil.which("strace"), reason="strace shows what a process asks of the system")
class TestOffMeansOff:
    CALLS = "trace=socket,connect,clone,clone3,fork,vfork,openat,open,mkdir,unlink,rename"

    def asked(self, program, tmp_path, **environment):
        log = tmp_path / "strace.log"
        command = ["strace", "-f", "-qq", "-e", self.CALLS, "-o", str(log), sys.executable, "-c", program]
        settings = {**os.environ, "AGENT_SDK_HOME": str(tmp_path / "home"), **environment}
        subprocess.run(command, env=settings, check=True, timeout=120, capture_output=True)
        lines = log.read_text().splitlines()
        # Reading modules is importing, which is not what is meant.
        written = [line for line in lines if "O_RDONLY" not in line and "openat" in line]
        others = [line for line in lines if not any(name in line for name in ("openat(", "open(", "+++", "---"))]
        return written + others

    USE = (
        "import agent_sdk\n"
        "t = agent_sdk.create_tracker('key', 'http://127.0.0.1:9')\n"
        "with t.track_run('a') as r:\n    t.track_step('s'); r.child('c').end()\n"
        "@agent_sdk.track\ndef f(): return 1\n"
        "f(); t.flush(); t.close()\n"
    )

    def test_disabled_asks_nothing_of_the_system(self, tmp_path):
        assert self.asked(self.USE, tmp_path, AGENT_SDK_DISABLED="1") == []

    def test_unused_asks_nothing_of_the_system(self, tmp_path):
        assert self.asked("import agent_sdk\nt = agent_sdk.create_tracker()\nt.flush()\nt.close()", tmp_path) == []

    def test_used_asks_for_files_threads_and_sockets(self, tmp_path):
        """So that the two above can fail."""
        asked = " ".join(self.asked(self.USE, tmp_path))
        assert "clone" in asked
        assert "socket" in asked
        assert ".ndjson" in asked
