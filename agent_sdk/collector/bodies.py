"""Bodies: JSON of inputs, outputs, errors and metadata, addressed by content and compressed."""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any, Iterable

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from agent_sdk.collector import schema

_COMPRESS_ABOVE = 200
_IN_ONE_QUERY = 500


class BodyWriter:
    """Collects the bodies of one transaction and writes each of them once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._new: dict[bytes, bytes] = {}

    def put(self, value: Any) -> bytes:
        """The address of a value."""
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        address = hashlib.blake2b(data, digest_size=16).digest()
        self._new[address] = data
        return address

    def write(self) -> None:
        """Store what is not there yet."""
        rows = [_row(address, data) for address, data in self._new.items()]
        if rows:
            self._connection.execute(insert(schema.bodies).on_conflict_do_nothing(), rows)
        self._new = {}

    def get(self, address: bytes) -> Any:
        """A value that was put in this transaction or before it."""
        if address in self._new:
            return json.loads(self._new[address])
        return read(self._connection, [address]).get(address)


def _row(address: bytes, data: bytes) -> dict[str, Any]:
    small = zlib.compress(data, 1) if len(data) > _COMPRESS_ABOVE else data
    return {
        "hash": address,
        "size": len(data),
        "encoding": "zlib" if small is not data else "",
        "data": small,
    }


def read(connection: Connection, addresses: Iterable[bytes | None]) -> dict[bytes, Any]:
    """The values at ``addresses``; missing ones are left out."""
    wanted = list({address for address in addresses if address is not None})
    found: dict[bytes, Any] = {}
    for start in range(0, len(wanted), _IN_ONE_QUERY):
        part = wanted[start : start + _IN_ONE_QUERY]
        rows = connection.execute(select(schema.bodies).where(schema.bodies.c.hash.in_(part)))
        for row in rows:
            data = zlib.decompress(row.data) if row.encoding else row.data
            found[row.hash] = json.loads(data.decode("utf-8", "surrogatepass"))
    return found
