"""What a tracker can be told: arguments first, then ``AGENT_SDK_*`` variables, then defaults; each checked once.

A bad value never stops the program: it is said once, with the fix, and the default stands in. ``strict=True`` raises
``ConfigurationError`` instead.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Mapping, NamedTuple
from urllib.parse import urlsplit

from agent_sdk.delivery import DEFAULT_URL, DURABILITIES, Delivery, home_directory, without_login
from agent_sdk.delivery.log import say

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off", "")
_SCHEMES = ("http", "https", "file", "memory")


class ConfigurationError(ValueError):
    """A setting cannot be used; the text says which, why, and what to write instead."""


class Setting(NamedTuple):
    """A value with where it came from: ``argument``, the name of a variable, or ``default``."""

    value: Any
    source: str


def _url(value: Any) -> str:
    text = str(value).strip()
    parts = urlsplit(text)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"{without_login(text)!r} is no address: write it like {DEFAULT_URL!r}")
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise ValueError(f"{without_login(text)!r} names no host: write it like {DEFAULT_URL!r}")
    _ = parts.port  # raises for a port that is none
    return text.rstrip("/") if parts.scheme in ("http", "https") else text


def _key(value: Any) -> str | None:
    text = str(value).strip()
    if any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError("the key contains blanks or line ends: copy it again")
    return text or None


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text not in _TRUE + _FALSE:
        raise ValueError(f"{value!r} is neither yes nor no: write 1 or 0")
    return text in _TRUE


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < 1e12:
        raise ValueError(f"{value!r} is not a positive number")
    return number


def _share(value: Any) -> float:
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{value!r} is not between 0 and 1")
    return number


def _size(value: Any) -> int:
    return int(_positive(value))


def _durability(value: Any) -> str:
    if value not in DURABILITIES:
        raise ValueError(f"{value!r} is none of {', '.join(DURABILITIES)}")
    return str(value)


def _text(value: Any) -> str:
    return str(os.path.expanduser(os.fspath(value)))


def _mask(value: Any) -> Any:
    if not callable(value):
        raise ValueError("redact must be a function (field, value) -> value")
    return value


def _anything(value: Any) -> Any:
    return value


_DELIVERY = Delivery()

#: Every option: how it is read and its default. Those in ``_ARGUMENT_ONLY`` have no variable.
_OPTIONS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "api_key": (_key, None),
    "base_url": (_url, DEFAULT_URL),
    "home": (_text, None),
    "disabled": (_flag, False),
    "strict": (_flag, False),
    "durability": (_durability, _DELIVERY.durability),
    "capture_input": (_flag, True),
    "capture_output": (_flag, True),
    "redact_builtin": (_flag, True),
    "redact": (_mask, None),
    "max_body_bytes": (_size, 262_144),
    "sample_rate": (_share, 1.0),
    "keep_slower": (_positive, None),
    "keep_costlier": (_positive, None),
    "records_per_minute": (_positive, None),
    "bytes_per_minute": (_positive, None),
    "buffer_bytes": (_size, _DELIVERY.buffer_bytes),
    "buffer_records": (_size, _DELIVERY.buffer_records),
    "journal_bytes": (_size, _DELIVERY.journal_bytes),
    "journal_days": (_positive, _DELIVERY.journal_days),
    "commit_interval": (_positive, _DELIVERY.commit_interval),
    "flush_interval": (_positive, _DELIVERY.flush_interval),
    "heartbeat_interval": (_positive, _DELIVERY.heartbeat_interval),
    "request_timeout": (_positive, _DELIVERY.request_timeout),
    "exit_timeout": (_positive, _DELIVERY.exit_timeout),
    "destination": (_anything, None),
    "clock": (_anything, None),
}
_ARGUMENT_ONLY = ("redact", "destination", "clock")


class Configuration:
    """All settings of a tracker, with their sources in ``settings`` and what was wrong in ``problems``."""

    def __init__(self, arguments: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.settings: dict[str, Setting] = {}
        self.problems: list[str] = []
        for name, (read, default) in _OPTIONS.items():
            self.settings[name] = self._setting(name, read, default, arguments, environment)
        for name in arguments:
            if name not in _OPTIONS:
                self.problems.append(f"there is no option {name!r}{_nearest(name)}")
        self._report()

    def __getattr__(self, name: str) -> Any:
        try:
            return self.settings[name].value
        except KeyError:
            raise AttributeError(name) from None

    def _setting(
        self,
        name: str,
        read: Callable[[Any], Any],
        default: Any,
        arguments: Mapping[str, Any],
        environment: Mapping[str, str],
    ) -> Setting:
        variable = "AGENT_SDK_" + name.upper()
        candidates = [(arguments.get(name), name)]
        if name not in _ARGUMENT_ONLY:
            candidates.append((environment.get(variable), variable))
        for value, source in candidates:
            if value is not None and value != "":
                try:
                    return Setting(read(value), "argument" if source == name else source)
                except Exception as error:
                    self.problems.append(f"{source}: {error}")
                    return Setting(default, "default")
        return Setting(default, "default")

    def _report(self) -> None:
        if self.problems and self.settings["strict"].value:
            raise ConfigurationError("; ".join(self.problems))
        for problem in self.problems:
            say("configuration:" + problem, f"{problem}; the default is used")

    def delivery(self) -> Delivery:
        """The part of the settings that delivery needs."""
        shared = {name: self.settings[name].value for name in Delivery._fields if name in self.settings}
        shared.update(destination=self.settings["base_url"].value, home=self.settings["home"].value or home_directory())
        return Delivery(**shared)


def _nearest(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, _OPTIONS, 1)
    return f": did you mean {near[0]!r}?" if near else f": the options are {', '.join(sorted(_OPTIONS))}"


def killed() -> bool:
    """Whether ``AGENT_SDK_DISABLED`` says so now: the switch works while the program runs."""
    return os.environ.get("AGENT_SDK_DISABLED", "").strip().lower() not in _FALSE
