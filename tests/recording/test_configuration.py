"""Settings: where they come from, what is said about bad ones, and the switch that turns everything off."""

from __future__ import annotations

import logging
import threading

import pytest

import agent_sdk
from agent_sdk.delivery import log
from agent_sdk.recording.configuration import Configuration, ConfigurationError
from agent_sdk.testing import recording


def configured(arguments=None, **environment):
    return Configuration(arguments or {}, environment)


class TestSources:
    def test_arguments_come_before_variables_before_defaults(self):
        found = configured({"flush_interval": 2}, AGENT_SDK_FLUSH_INTERVAL="3", AGENT_SDK_JOURNAL_DAYS="4")
        assert (found.flush_interval, found.settings["flush_interval"].source) == (2.0, "argument")
        assert (found.journal_days, found.settings["journal_days"].source) == (4.0, "AGENT_SDK_JOURNAL_DAYS")
        assert found.settings["exit_timeout"].source == "default"

    def test_none_and_empty_count_as_not_given(self):
        found = configured({"base_url": None}, AGENT_SDK_BASE_URL="", AGENT_SDK_API_KEY=" ")
        assert found.base_url == "http://127.0.0.1:8790"
        assert found.api_key is None

    @pytest.mark.parametrize(
        ("text", "value"), [("1", True), ("TRUE", True), ("on", True), ("no", False), ("0", False)]
    )
    def test_flags(self, text, value):
        assert configured(AGENT_SDK_STRICT=text).strict is value

    def test_a_home_with_a_tilde(self, monkeypatch):
        monkeypatch.setenv("HOME", "/somewhere")
        assert configured({"home": "~/x"}).home == "/somewhere/x"


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (
                {"base_url": "example.org"},
                "base_url: 'example.org' is no address: write it like 'http://127.0.0.1:8790'",
            ),
            ({"base_url": "http://"}, "names no host"),
            ({"base_url": "http://a:port"}, "base_url"),
            ({"api_key": "a b"}, "the key contains blanks or line ends: copy it again"),
            ({"strict": "perhaps"}, "'perhaps' is neither yes nor no: write 1 or 0"),
            ({"flush_interval": -1}, "-1 is not a positive number"),
            ({"flush_interval": "soon"}, "flush_interval"),
            ({"durability": "eternal"}, "'eternal' is none of"),
            ({"redact": "no function"}, "redact must be a function (field, value) -> value"),
            ({"home": 5}, "home"),
            ({"flush_intervall": 1}, "did you mean 'flush_interval'?"),
            ({"qqq": 1}, "the options are api_key, base_url"),
        ],
    )
    def test_each_is_named_with_its_fix(self, arguments, told):
        (problem,) = configured(arguments).problems
        assert told in problem

    def test_a_variable_is_named_as_the_user_wrote_it(self):
        (problem,) = configured(AGENT_SDK_FLUSH_INTERVAL="x").problems
        assert problem.startswith("AGENT_SDK_FLUSH_INTERVAL: ")

    def test_the_key_itself_is_never_repeated(self):
        assert "canary" not in str(configured({"api_key": "canary canary"}).problems)

    def test_the_tracker_works_on_and_says_it_once(self, caplog):
        for _ in range(3):
            tracker = agent_sdk.create_tracker(base_url="nowhere", durability="memory")
            with tracker.track_run("a") as run:
                assert run.id
            tracker.close(0)
        lines = [record.getMessage() for record in caplog.records if "is no address" in record.getMessage()]
        assert len(lines) == 1
        assert "the default is used" in lines[0]

    def test_strict_raises_everything_at_once(self):
        with pytest.raises(ConfigurationError, match=r"is no address.*; .*positive number"):
            agent_sdk.create_tracker(base_url="nowhere", flush_interval=0, strict=True)

    def test_hostile_arguments_are_survived(self):
        class Hostile:
            def __getattribute__(self, name):
                raise RuntimeError("sprung")

            def __str__(self):
                raise RuntimeError("sprung")

        for name in ("base_url", "api_key", "flush_interval", "durability", "home", "redact", "strict", "disabled"):
            tracker = agent_sdk.create_tracker(**{"durability": "memory", name: Hostile()})
            tracker.track_run("a").end()
            tracker.close(0)


class TestOff:
    def test_disabled_opens_nothing(self, tmp_path):
        home = tmp_path / "none"
        before = threading.active_count()
        tracker = agent_sdk.create_tracker(disabled=True, home=str(home))
        with tracker.track_run("a"):
            tracker.track_step("s")
        assert tracker.flush().recorded == tracker.close().recorded == 0
        assert threading.active_count() == before
        assert not home.exists()

    def test_a_tracker_that_is_not_used_opens_nothing(self, tmp_path):
        import sys

        home = tmp_path / "none"
        before = len(sys._current_frames())
        tracker = agent_sdk.create_tracker(home=str(home))
        tracker.flush()
        tracker.close()
        assert len(sys._current_frames()) == before
        assert not home.exists()

    def test_off_in_the_environment_turns_every_tracker_off(self, monkeypatch):
        with recording() as recorded:
            monkeypatch.setenv("AGENT_SDK_DISABLED", "1")
            with recorded.tracker.track_run("a") as run:
                run.child("s").end()
            recorded.tracker.track(lambda: 1)()
            assert recorded.records == []


class TestDefaultTracker:
    @pytest.fixture(autouse=True)
    def own_default(self):
        agent_sdk.configure(base_url="memory://default", durability="memory")
        yield
        agent_sdk.configure(disabled=True)

    def test_it_is_one(self):
        assert agent_sdk.get_tracker() is agent_sdk.get_tracker()

    def test_functions_that_are_decorated_already_follow_a_new_configuration(self):
        @agent_sdk.track
        def agent():
            return agent_sdk.current_run()

        first = agent()
        assert agent_sdk.flush().complete
        before = agent_sdk.get_tracker()
        tracker = agent_sdk.configure(base_url="memory://other", durability="memory")
        assert tracker is agent_sdk.get_tracker() is not before
        assert agent().id != first.id
        assert agent_sdk.flush().recorded == 2

    def test_decorator_with_options(self):
        @agent_sdk.track(name="n", step_type="agent", capture_output=False)
        def agent():
            return agent_sdk.current_run().agent_name

        assert agent() == "n"


class TestManners:
    def test_the_log_belongs_to_the_library_alone(self):
        logger = log.logger()
        assert logger is logging.getLogger("agent_sdk")
        assert any(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
        assert logger.level == logging.NOTSET
        assert logger.propagate

    def test_the_readme_lists_every_setting_with_its_default(self):
        from pathlib import Path

        from agent_sdk.recording import configuration

        text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
        table = text[text.index("| setting | default |") : text.index("`tracker.flush()` returns")]
        for name, (_, default) in configuration._OPTIONS.items():
            if name in ("clock", "destination"):
                continue
            (row,) = [row for row in table.splitlines() if row and f"`{name}`" in row.split("|")[1]]
            position = [part.strip(" `") for part in row.split("|")[1].split(",")].index(name)
            shown = row.split("|")[2].strip()
            values = shown.split(", ") if "`," in row.split("|")[1] and shown != "yes" else [shown] * 2
            told = values[position].strip("` ")
            if default is None:
                continue
            expected = {True: "yes", False: "no"}.get(default, default) if isinstance(default, bool) else default
            assert told.replace(",", "") == (f"{expected:g}" if isinstance(expected, float) else str(expected)), name
