"""Bodies: how large, in which compression, and what a sender is told when one cannot be read."""

from __future__ import annotations

import gzip
import http.client
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
import zstandard

from agent_sdk.collector.receive import LIMITS
from tests.collector.making import LONG_AGO, Stream, ndjson, run_id

COMPRESS = {
    "gzip": gzip.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}
MOST_BYTES = LIMITS["max_batch_bytes"]
MOST_RECORDS = LIMITS["max_batch_records"]


def padded(record: dict, size: int) -> bytes:
    """A line of exactly ``size`` bytes, with its line end."""
    short = ndjson([{**record, "input": ""}])
    return ndjson([{**record, "input": "x" * (size - len(short))}])


def filled(stream: Stream, size: int) -> bytes:
    """A body of exactly ``size`` bytes of good records."""
    half = size // 2
    return padded(stream.start(1), half) + padded(stream.start(2), size - half)


class TestSizes:
    def test_a_body_at_the_limit_is_taken_and_one_byte_more_is_413(self, collector, stream):
        assert collector.post(filled(stream, MOST_BYTES)).json()["accepted"] == 2
        refused = collector.post(filled(stream, MOST_BYTES + 1))
        assert (refused.status_code, refused.json()) == (413, {"detail": "more than 8388608 bytes: send less at once"})

    def test_a_body_far_over_the_limit_still_gets_its_answer(self, collector):
        assert collector.post(b" " * (3 * MOST_BYTES)).status_code == 413

    @pytest.mark.parametrize("encoding", COMPRESS)
    def test_the_limit_holds_for_the_body_when_it_is_decompressed(self, collector, stream, encoding):
        compress = COMPRESS[encoding]
        fits, too_large = compress(filled(stream, MOST_BYTES)), compress(filled(stream, MOST_BYTES + 1))
        assert len(too_large) < MOST_BYTES // 100
        assert collector.post(fits, **{"Content-Encoding": encoding}).json()["accepted"] == 2
        assert collector.post(too_large, **{"Content-Encoding": encoding}).status_code == 413

    @pytest.mark.parametrize("line_end", [b"", b"\n"])
    def test_a_batch_with_the_most_records_is_taken_and_one_more_is_413(self, collector, line_end):
        assert collector.post(b"\n".join([b"0"] * MOST_RECORDS) + line_end).status_code == 200
        refused = collector.post(b"\n".join([b"0"] * (MOST_RECORDS + 1)) + line_end)
        assert refused.status_code == 413
        assert refused.json() == {"detail": "more than 10000 records: send less at once"}

    def test_a_record_at_its_limit_is_taken_and_one_byte_more_is_refused_alone(self, collector, stream):
        most = LIMITS["max_record_bytes"]
        body = padded(stream.start(1), most + 1) + padded(stream.start(2), most - 1000)
        told = collector.post(body).json()
        assert (told["accepted"], told["rejected"]) == (2, [])
        told = collector.post(padded(stream.start(3), most + 2) + ndjson([stream.start(4)])).json()
        assert told["rejected"] == [{"index": 0, "id": None, "reason": f"larger than {most} bytes"}]
        assert told["accepted"] == 1

    def test_a_refused_batch_leaves_nothing_behind(self, collector, stream):
        collector.post(ndjson([stream.start(1)]) + b"\n" * (MOST_RECORDS + 1))
        assert collector.runs() == []


class TestCompression:
    @pytest.mark.parametrize("encoding", COMPRESS)
    def test_a_compressed_batch_is_stored_as_a_plain_one(self, collector, stream, encoding):
        body = COMPRESS[encoding](ndjson([stream.start(1, input={"q": "ü"}), stream.end(1)]))
        told = collector.post(body, **{"Content-Encoding": encoding.upper()}).json()
        assert (told["accepted"], told["rejected"]) == (2, [])
        assert collector.get(f"/api/v1/runs/{run_id(1)}")["input"] == {"q": "ü"}

    @pytest.mark.parametrize("encoding", COMPRESS)
    def test_a_bomb_is_413_and_is_not_unpacked(self, collector, encoding):
        if encoding == "gzip":
            packer = zlib.compressobj(9, wbits=31)
            bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
        else:
            packer = zstandard.ZstdCompressor(level=3).compressobj()
            bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
        assert len(bomb) < 300_000
        tracemalloc.start()
        try:
            answer = collector.post(bomb, **{"Content-Encoding": encoding})
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert answer.status_code == 413
        assert most < 5 * MOST_BYTES

    @pytest.mark.parametrize("encoding", COMPRESS)
    def test_a_body_that_is_not_what_its_header_says_is_400(self, collector, encoding):
        answer = collector.post(b'{"type": "run.start"}\n', **{"Content-Encoding": encoding})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(f"the body is not {encoding}: ")

    @pytest.mark.parametrize("encoding", COMPRESS)
    @pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
    def test_a_compressed_body_that_was_cut_is_400_and_stores_nothing(self, collector, stream, encoding, kept):
        body = COMPRESS[encoding](ndjson(stream.start(number, input=number) for number in range(1, 200)))
        answer = collector.post(body[: int(len(body) * kept)], **{"Content-Encoding": encoding})
        assert (answer.status_code, answer.json()) == (400, {"detail": f"the {encoding} body ends too early"})
        assert collector.runs() == []

    @pytest.mark.parametrize("encoding", COMPRESS)
    def test_records_behind_the_end_of_a_compressed_stream_are_not_lost_in_silence(self, collector, stream, encoding):
        compress = COMPRESS[encoding]
        two = compress(ndjson([stream.start(1)])) + compress(ndjson([stream.start(2)]))
        answer = collector.post(two, **{"Content-Encoding": encoding})
        assert answer.status_code == 400
        assert answer.json()["detail"].startswith(f"the body is not {encoding}: ")

    @pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity"])
    def test_a_body_may_come_in_pieces_of_any_size(self, collector, stream, encoding):
        plain = ndjson(stream.start(number, input=str(number) * 50) for number in range(1, 50))
        body = COMPRESS.get(encoding, bytes)(plain)
        address = urlsplit(collector.url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
        headers = {"X-Agentscope-Key": collector.key, "Content-Encoding": encoding}
        pieces = (body[at : at + 7] for at in range(0, len(body), 7))
        connection.request("POST", "/api/ingest/batch", pieces, headers, encode_chunked=True)
        with connection.getresponse() as answer:
            assert answer.status == 200
        connection.close()
        assert len(collector.runs()) == 49

    @pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip"])
    def test_an_encoding_that_nobody_knows_is_415(self, collector, encoding):
        answer = collector.post(b"{}", **{"Content-Encoding": encoding})
        assert answer.status_code == 415
        assert answer.json()["detail"] == f"the encoding {encoding!r} is not known here: use gzip or zstd"


class TestBodies:
    @pytest.mark.parametrize("body", [b"", b"\n", b"\r\n \n"])
    def test_an_empty_body_is_a_batch_of_nothing(self, collector, body):
        answer = collector.post(body)
        assert answer.status_code == 200
        told = answer.json()
        assert (told["accepted"], told["duplicates"], told["rejected"]) == (0, 0, [])

    @pytest.mark.parametrize("kind", ["application/json", "text/plain", "nonsense", ""])
    def test_the_content_type_decides_nothing_as_any_client_may_send(self, collector, stream, kind):
        assert collector.post(ndjson([stream.start(1)]), **{"Content-Type": kind}).json()["accepted"] == 1

    def test_lines_that_are_no_json_do_not_hide_those_that_are(self, collector, stream):
        body = b"<html>\n" + ndjson([stream.start(1)]) + b'{"type"\n'
        told = collector.post(body).json()
        assert told["accepted"] == 1
        assert [refused["index"] for refused in told["rejected"]] == [0, 2]
        assert all(refused["reason"].startswith("not JSON: ") for refused in told["rejected"])

    def test_the_version_of_the_format_may_be_told_and_a_newer_one_is_400(self, collector, stream):
        body = ndjson([stream.start(1)])
        refused = collector.post(body, **{"X-Agent-SDK-Wire": "2"})
        assert refused.status_code == 400
        assert refused.json()["detail"] == "this collector knows the record format up to version 1: upgrade it"
        assert collector.post(body, **{"X-Agent-SDK-Wire": "1"}).json()["accepted"] == 1

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    def test_only_post_brings_records(self, collector, method):
        address = urlsplit(collector.url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
        connection.request(method, "/api/ingest/batch", headers={"X-Agentscope-Key": collector.key})
        with connection.getresponse() as answer:
            assert answer.status == 405
        connection.close()

    def test_many_senders_at_once_lose_nothing(self, collector):
        def send(number: int) -> int:
            stream, sent = Stream(number), 0
            for part in range(5):
                steps = [stream.step(number, part * 10 + step, at=LONG_AGO + step) for step in range(1, 11)]
                sent += collector.post(ndjson(steps)).json()["accepted"]
            return sent

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(send, range(1, 9))) == [50] * 8
        assert [run["step_count"] for run in collector.runs()] == [50] * 8
