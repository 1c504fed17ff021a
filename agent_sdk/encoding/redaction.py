"""Secrets out of records: the last stage before bytes touch a disk or a socket, over the whole record.

Most batches hold no secret, so the first look is for a few literals in the batch as a whole; only records that contain
one are parsed and rewritten.
"""

from __future__ import annotations

import re
from typing import Any, Callable, Iterable, Sequence

from agent_sdk.encoding.json_codec import dumps, loads
from agent_sdk.encoding.masking import Mask

REDACTED = "[redacted]"
WITHHELD = "[withheld: masking failed]"

#: A key whose last word is one of these holds a secret (compared in lower case, without ``_``, ``-`` and blanks).
SECRET_KEYS = (
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "apikey",
    "accesskey",
    "secretkey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "agentscopekey",
    "authorization",
    "cookie",
    "token",
    "credential",
    "credentials",
)

_ASSIGNMENT = (
    r"(?i)((?:\"|'|\b)[\w.-]*(?:password|passwd|passphrase|pwd|secret|api[_-]?key|access[_-]?key|private[_-]?key|"
    r"token|authorization|cookie|credentials?)\\?[\"']?\s*(?:=|:)\s*\\?[\"']?)(?!\[redacted\])([^\s\"'\\&,;{}\[\]]{3,})"
)

#: What a secret looks like wherever it stands, with what is left of it.
SECRET_VALUES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), replacement)
    for pattern, replacement in (
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", REDACTED),
        (r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", REDACTED),
        (r"\b(?:sk|rk|pk|ask|gsk|xai|hf|npm|glpat|sess)[-_][A-Za-z0-9_-]{16,}", REDACTED),
        (r"\bgh[pousr]_[A-Za-z0-9]{20,}", REDACTED),
        (r"\bgithub_pat_\w{20,}", REDACTED),
        (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", REDACTED),
        (r"\bAIza[\w-]{30,}", REDACTED),
        (r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}", REDACTED),
        (r"\bSG\.[\w-]{16,}\.[\w-]{16,}", REDACTED),
        (r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}", r"\1 " + REDACTED),
        (r"(://[^/\s:@\"']*):[^/\s@\"']+@", r"\1:" + REDACTED + "@"),
        (_ASSIGNMENT, r"\1" + REDACTED),
    )
)

#: A record without any of these (in lower case) matches none of the rules above.
_TRIGGERS = tuple(
    trigger.encode()
    for trigger in (
        *("passw", "passphrase", "pwd", "secret", "api_key", "api-key", "apikey", "api key", "accesskey", "access_key"),
        *(
            "access-key",
            "access key",
            "private_key",
            "privatekey",
            "private-key",
            "private key",
            "signing",
            "encryption",
        ),
        *("agentscope", "authorization", "cookie", "credential"),
        *('token"', "token\\", "token=", "token:", "token ", "token'", "eyj", "akia", "asia", "aiza", "xox", "sg."),
        *("sk-", "sk_", "rk_", "pk_", "rk-", "pk-", "hf_", "hf-", "npm_", "npm-", "xai-", "xai_", "glpat", "sess-"),
        *("sess_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "bearer", "basic", "@"),
    )
)

#: Fields that the recorder itself has made; nobody's text is in them.
_OWN_FIELDS = frozenset(
    ("type", "id", "time", "run_id", "step_id", "parent_step_id", "parent_run_id", "started_at", "first_token_at")
)
_NOT_SECRET = (None, True, False, "", REDACTED, WITHHELD)


class Redactor:
    """Takes secrets out of records. ``mask(field, value)`` of the user is asked first, then the built-in rules apply.

    ``mask`` runs in the writer's thread, with the name of a field (``input``, ``output``, ``error``, ``metadata``,
    ``name``, ``tags``, …) and its value as JSON would give it back, and returns what to record in its place. Where it
    raises, takes more than a second or returns something that JSON cannot hold, the field is withheld.
    """

    def __init__(self, mask: Callable[[str, Any], Any] | None = None, builtin: bool = True) -> None:
        self._mask = Mask(mask) if mask is not None else None
        self._builtin = builtin
        #: How many fields were withheld.
        self.failures = 0

    def redact(self, lines: Sequence[bytes]) -> list[bytes]:
        """The same records without secrets, one a line. Never raises: a record that cannot be read is emptied."""
        if self._mask is None and not self._builtin:
            return list(lines)
        if self._mask is None and not any(_has_trigger(b"".join(lines).lower())):
            return list(lines)
        return [self._line(line) for line in lines]

    def _line(self, line: bytes) -> bytes:
        if self._mask is None and not any(_has_trigger(line.lower())):
            return line
        try:
            record = loads(line)
            for field in record:
                if field not in _OWN_FIELDS:
                    record[field] = self._field(field, record[field])
            return dumps(record) + b"\n"
        except Exception:
            self.failures += 1
            return _skeleton(line)

    def _field(self, field: str, value: Any) -> Any:
        try:
            if self._mask is not None:
                value = self._mask(field, value)
            return _without_secrets(value) if self._builtin else value
        except Exception:
            self.failures += 1
            return WITHHELD


def _has_trigger(text: bytes) -> Iterable[bool]:
    return (trigger in text for trigger in _TRIGGERS)


def _skeleton(line: bytes) -> bytes:
    """What may be kept of a record that could not be redacted: what the recorder itself has made."""
    try:
        record = loads(line)
        return dumps({field: record[field] for field in _OWN_FIELDS if field in record}) + b"\n"
    except Exception:
        return b"{}\n"


def _without_secrets(value: Any) -> Any:
    """The same value with secrets replaced; containers are changed in place, without recursion."""
    holder = [value]
    pending: list[Any] = [holder]
    while pending:
        container = pending.pop()
        pairs = list(container.items()) if type(container) is dict else list(enumerate(container))
        for key, item in pairs:
            if type(key) is str and _is_secret_key(key) and item not in _NOT_SECRET:
                container[key] = REDACTED
            elif type(item) is str:
                container[key] = _clean(item)
            elif type(item) in (dict, list):
                pending.append(item)
        if type(container) is dict:
            _clean_keys(container)
    return holder[0]


def _clean_keys(container: dict[str, Any]) -> None:
    for key in [key for key in container if _clean(key) != key]:
        container[_clean(key)] = container.pop(key)


def _is_secret_key(key: str) -> bool:
    return key.lower().replace("_", "").replace("-", "").replace(" ", "").endswith(SECRET_KEYS)


def _clean(text: str) -> str:
    for pattern, replacement in SECRET_VALUES:
        text = pattern.sub(replacement, text)
    return text
