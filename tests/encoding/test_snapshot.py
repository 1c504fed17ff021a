from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import sys
import time
import uuid
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_sdk.encoding import DEFAULT_LIMITS, Limits, dumps, encode_line, snapshot

MODULE = sys.modules["agent_sdk.encoding.snapshot"]  # the package shows the function of the same name


def of(value, **limits):
    return snapshot(value, Limits(**limits) if limits else DEFAULT_LIMITS)[0]


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=8) | st.dictionaries(st.text(), children, max_size=8),
    max_leaves=40,
)


class TestPlainData:
    @given(plain)
    def test_plain_data_is_taken_as_it_is(self, value):
        assert of(value) == value

    @given(plain)
    def test_the_snapshot_shares_no_container_with_the_original(self, value):
        def containers(node):
            if isinstance(node, (dict, list)):
                yield id(node)
                for child in node.values() if isinstance(node, dict) else node:
                    yield from containers(child)

        copy = of(value)
        assert not set(containers(value)) & set(containers(copy))

    @given(plain)
    def test_the_size_is_at_least_that_of_the_text(self, value):
        data, size = snapshot(value)
        assert size >= len(json.dumps(data, ensure_ascii=False)) / 8

    def test_a_later_change_is_not_recorded(self):
        value = {"messages": [{"role": "user"}]}
        copy = of(value)
        value["messages"][0]["role"] = "changed"
        value["messages"].append("more")
        assert copy == {"messages": [{"role": "user"}]}

    @given(st.text(st.characters(blacklist_categories=()), max_size=40))
    def test_every_text_becomes_a_line_that_is_json(self, text):
        line = encode_line({"input": of({text: text})}, DEFAULT_LIMITS)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        json.loads(line.decode("utf-8"))


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: int
    y: object = None


class Slotted:
    __slots__ = ("a",)


class Holder:
    def __init__(self, **held):
        self.__dict__.update(held)


Pair = collections.namedtuple("Pair", "left right")


class TestOtherTypes:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ((1, "a"), [1, "a"]),
            (Pair(1, 2), {"left": 1, "right": 2}),
            ({1: "a", None: "b", 2.5: "c", (1, 2): "d"}, {"1": "a", "None": "b", "2.5": "c", "[tuple]": "d"}),
            ({1: "a", "1": "b"}, {"1": "a", "1'": "b"}),
            (collections.OrderedDict(a=1), {"a": 1}),
            (collections.Counter("aa"), {"a": 2}),
            (collections.deque([1, 2]), [1, 2]),
            (collections.UserDict({"a": 1}), {"a": 1}),
            (collections.UserList([1]), [1]),
            (frozenset([1]), [1]),
            (datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
            (datetime.date(2026, 1, 2), "2026-01-02"),
            (datetime.timedelta(seconds=5), "0:00:05"),
            (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
            (decimal.Decimal("1.50"), "1.50"),
            (pathlib.PurePosixPath("/a/b"), "/a/b"),
            (Colour.RED, "red"),
            (Number.ONE, 1),
            (Point(1, Point(2)), {"x": 1, "y": {"x": 2, "y": None}}),
            (float("nan"), {"$type": "float", "value": "NaN"}),
            (float("-inf"), {"$type": "float", "value": "-Infinity"}),
            (range(3), {"$type": "range", "start": 0, "stop": 3, "step": 1}),
            (2j, {"$type": "complex", "real": "0.0", "imag": "2.0"}),
            (int, {"$type": "type", "name": "int"}),
            (len, {"$type": "builtin_function_or_method", "name": "len"}),
            (ValueError("a", 1), {"$type": "ValueError", "arguments": ["a", 1]}),
            (Slotted(), {"$type": f"{__name__}.Slotted"}),
            (Holder(), {"$type": f"{__name__}.Holder"}),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_each_has_its_form(self, value, expected):
        assert of(value) == expected
        assert of([value]) == [expected]

    def test_bytes_tell_their_length_and_how_they_begin(self):
        assert of(b"\x00\xff" * 100) == {"$type": "bytes", "length": 200, "head": "00ff" * 32}

    def test_a_huge_integer_tells_its_digits(self):
        assert of(10**60)["digits"] == 61
        assert of(10**60)["value"] == "1" + "0" * 49
        assert "value" not in of(10**5000)

    def test_an_object_of_an_unknown_class_shows_what_it_holds_but_nothing_private(self):
        marker = of(Holder(a=1, _b=2))
        assert marker == {"$type": f"{__name__}.Holder", "attributes": {"a": 1}}

    def test_generators_are_not_consumed(self):
        generator = (n for n in range(3))
        assert of(generator) == {"$type": "generator"}
        assert list(generator) == [0, 1, 2]

    def test_a_missing_field_of_a_dataclass_is_said(self):
        point = Point(1)
        del point.__dict__["y"]
        assert of(point) == {"x": 1, "y": {"$type": "missing"}}

    def test_models_of_pydantic_give_their_fields_and_extras(self):
        pydantic = pytest.importorskip("pydantic")

        class Model(pydantic.BaseModel):
            model_config = pydantic.ConfigDict(extra="allow")
            name: str
            private: int = 0

        assert of(Model(name="a", more=[1])) == {"name": "a", "private": 0, "more": [1]}

    def test_classes_of_attrs_give_their_fields(self):
        attr = pytest.importorskip("attr")

        @attr.s(slots=True)
        class Made:
            a = attr.ib()

        assert of(Made(5)) == {"a": 5}

    def test_arrays_tell_their_shape_and_how_they_begin(self):
        numpy = pytest.importorskip("numpy")
        found = of(numpy.arange(1000).reshape(10, 100))
        assert (found["shape"], found["head"]) == ([10, 100], list(range(20)))
        assert of(numpy.float64(1.5)) == 1.5
        assert of(numpy.int32(7)) == 7

    def test_frames_tell_their_columns_and_how_they_begin(self):
        pandas = pytest.importorskip("pandas")
        found = of(pandas.DataFrame({"a": range(100), "b": "x"}))
        assert (found["shape"], found["columns"], found["head"][1]) == ([100, 2], ["a", "b"], [1, "x"])
        assert of(pandas.Series([1, 2]))["head"] == [1, 2]


class Trap:
    """Every way to look at it does what ``spring`` does."""

    def spring(self, *_):
        raise RuntimeError("sprung")

    __repr__ = __str__ = __len__ = __iter__ = __eq__ = __bool__ = __getitem__ = __contains__ = __call__ = spring
    __int__ = __float__ = __index__ = __reduce__ = __dir__ = __format__ = __sizeof__ = spring
    __hash__ = object.__hash__

    def __getattribute__(self, name):
        raise RuntimeError("sprung")

    @property
    def __dict__(self):
        raise RuntimeError("sprung")

    @property
    def __class__(self):
        raise RuntimeError("sprung")


class Meta(type):
    called: ClassVar[list] = []

    def __hash__(cls):
        Meta.called.append("hash")
        raise RuntimeError("sprung")

    def __getattribute__(cls, name):
        Meta.called.append(name)
        raise RuntimeError("sprung")

    def __instancecheck__(cls, instance):
        raise RuntimeError("sprung")


class OfMeta(metaclass=Meta):
    pass


class LyingDict(dict):
    def items(self):
        raise RuntimeError("sprung")

    keys = values = __iter__ = __len__ = __getitem__ = items


class LyingStr(str):
    def __len__(self):
        return -1

    def __str__(self):
        raise RuntimeError("sprung")

    encode = __str__


class TestHostileObjects:
    @pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"k": v}, lambda v: Point(1, v)])
    def test_no_code_of_the_object_runs(self, wrap):
        assert json.loads(dumps(of(wrap(Trap())))) is not Ellipsis

    def test_no_code_of_the_metaclass_runs(self):
        value = OfMeta()
        Meta.called.clear()
        assert of([value, OfMeta])[0] == {"$type": f"{__name__}.OfMeta"}
        assert Meta.called == []

    def test_subclasses_are_read_as_what_they_are(self):
        assert of(LyingDict(a=1)) == {"a": 1}
        assert of([LyingStr("text")]) == ["text"]

    def test_a_hostile_key_costs_its_name_only(self):
        assert of({Trap(): 1, "b": 2}) == {f"[{__name__}.Trap]": 1, "b": 2}

    def test_properties_and_lazy_loaders_are_not_touched(self):
        touched = []

        class Lazy:
            def __init__(self):
                self.loaded = 1

            @property
            def expensive(self):
                touched.append("property")

            def __getattr__(self, name):
                touched.append(name)
                raise AttributeError(name)

        assert of(Lazy())["attributes"] == {"loaded": 1}
        assert touched == []

    def test_an_object_whose_adapter_fails_is_marked(self):
        class Broken(datetime.datetime):
            def isoformat(self, *_):
                raise RuntimeError("sprung")

        assert of(Broken(2026, 1, 1)) == {"$type": f"{__name__}.{Broken.__qualname__}", "unreadable": "RuntimeError"}


class TestBounds:
    def test_a_cycle_is_marked(self):
        value = {"a": []}
        value["a"].append(value)
        assert of(value)["a"] == [{"$cut": "cycle", "type": "dict", "length": 1}]

    def test_shared_values_are_no_cycle(self):
        shared = {1}
        assert of([shared, shared]) == [[1], [1]]

    def test_depth(self):
        value = leaf = []
        for _ in range(1000):
            leaf.append([])
            leaf = leaf[0]
        text = json.dumps(of(value))
        assert '{"$cut": "depth", "type": "list", "length": 1}' in text
        assert text.count("[") == DEFAULT_LIMITS.max_depth

    def test_depth_under_a_low_recursion_limit(self):
        value = leaf = []
        for _ in range(1000):
            leaf.append([])
            leaf = leaf[0]
        depth = len(__import__("inspect").stack())
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(depth + 40)
        try:
            data = of(value)
        finally:
            sys.setrecursionlimit(before)
        assert isinstance(data, list)

    def test_number_of_values(self):
        found = of(list(range(100_000)), max_seconds=60.0)
        assert found[-1] == {"$cut": "nodes"}
        assert found[:-1] == list(range(DEFAULT_LIMITS.max_nodes - 1))

    def test_length_of_a_text(self):
        found = of("a" * 100_000)
        assert found == "a" * 65_536 + "…[cut 34464 characters]"

    def test_all_bytes_together(self):
        found = of({str(n): "a" * 1000 for n in range(1000)})
        assert found["$cut"] == {"$cut": "bytes"}
        assert 200 < len(found) < 300

    @given(st.text(st.sampled_from('\x00\x01"\\é漢\ud800a'), min_size=1, max_size=50), st.integers(1, 2000))
    @settings(max_examples=30, deadline=None)
    def test_a_line_never_exceeds_the_limit_by_more_than_its_markers(self, text, times):
        limits = Limits.for_bodies(4096)
        data, _ = snapshot({"a": [text] * times, "b": text * times}, limits)
        line = encode_line({"input": data}, limits)
        assert len(line) <= 4096 + 200
        json.loads(line)

    def test_unknown_objects_are_opened_a_hundred_times_only(self):
        found = json.dumps(of([Holder(n=n) for n in range(200)]))
        assert found.count('"attributes"') == 100
        assert found.count('{"$cut": "objects"') == 100

    def test_time(self, monkeypatch):
        now = iter(range(10**6))
        monkeypatch.setattr(MODULE, "perf_counter", lambda: next(now) * 0.02)
        found = of([*range(10_000), {1}])
        assert found[-1] == {"$cut": "time"}
        assert len(found) < 1000

    def test_a_huge_input_costs_no_more_than_a_few_times_a_large_one(self):
        def cost(value):
            best = 9.0
            for _ in range(5):
                start = time.perf_counter()
                snapshot(value)
                best = min(best, time.perf_counter() - start)
            return best

        huge = "x" * 200_000_000
        large = cost({"a": "x" * 65_536})
        for shape in ({"a": huge}, huge, {huge: 1}, [huge], {"a": {"b": [huge] * 3}}, huge.encode()):
            # A hundredfold would still be a fortieth of what copying 200 MB takes.
            assert cost(shape) < max(100 * large, 0.02)

    def test_a_list_that_another_thread_changes(self):
        class Changing(dict):
            pass

        value = Changing({n: n for n in range(2000)})

        def items():
            for key in list(dict.keys(value)):
                yield key, value.pop(key)

        assert of(value)["5"] == 5

    def test_no_memory_leaves_a_marker(self, monkeypatch):
        def no_memory(*_):
            raise MemoryError

        monkeypatch.setattr(MODULE._Walk, "run", no_memory)
        assert of({1, 2}) == {"$cut": "unreadable", "type": "set", "length": 2}


def test_without_orjson_lines_are_the_same(monkeypatch):
    from agent_sdk.encoding import json_codec

    value = {"a": [1, 2.5, None, True, "é\n\x00"], "b": {"c": "漢"}}
    assert json_codec.dumps_standard(value) == json_codec.dumps(value)
