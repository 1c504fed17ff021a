from __future__ import annotations

import pytest

from agent_sdk.encoding import describe_error


def raised(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def fail():
    raise ValueError("no such city")


def test_type_message_and_stack():
    found = describe_error(raised(fail))
    assert found["type"] == "ValueError"
    assert found["message"] == "no such city"
    assert found["stack"].splitlines()[-1].endswith("in fail")
    assert __file__ in found["stack"]


def test_a_class_of_a_module_tells_its_module():
    class CityError(Exception):
        pass

    assert describe_error(CityError())["type"].endswith(
        "test_errors.test_a_class_of_a_module_tells_its_module.<locals>.CityError"
    )


def test_causes_and_contexts_come_first():
    def chained():
        try:
            try:
                fail()
            except ValueError:
                raise KeyError("b")  # noqa: B904
        except KeyError as error:
            raise RuntimeError("c") from error

    stack = describe_error(raised(chained))["stack"]
    order = [
        stack.index(text) for text in ("ValueError: no such city", "and while that", "KeyError: 'b'", "was the cause")
    ]
    assert order == sorted(order)


def test_a_suppressed_context_is_left_out():
    def suppressing():
        try:
            fail()
        except ValueError:
            raise KeyError("b") from None

    assert "ValueError" not in describe_error(raised(suppressing))["stack"]


def test_a_chain_that_bites_its_tail_ends():
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert describe_error(first)["stack"].count("which was the cause of") == 1


def test_deep_stacks_keep_their_ends():
    def deep(n):
        return fail() if n == 0 else deep(n - 1)

    lines = describe_error(raised(deep, 300))["stack"].splitlines()
    assert len(lines) == 51
    assert "…" in lines[10]
    assert lines[-1].endswith("in fail")


def test_long_messages_are_cut():
    message = describe_error(ValueError("x" * 10_000))["message"]
    assert message == "x" * 8192 + "…[cut 1808 characters]"


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("sprung")


def test_a_message_that_cannot_be_read_is_said():
    assert describe_error(Mute())["message"] == "[its message cannot be read: RuntimeError]"


def test_half_characters_are_replaced():
    assert describe_error(ValueError("a\ud800b"))["message"] == "a?b"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("it broke", {"message": "it broke"}),
        ({"type": "E", "message": 5, "other": 1}, {"type": "E", "message": "5"}),
        ({}, {"message": "dict"}),
        ({"message": Mute()}, {"type": "dict"}),
        (7, {"message": "7"}),
    ],
)
def test_what_is_no_exception_is_taken_at_its_word(told, expected):
    assert describe_error(told) == expected


def test_nothing_of_the_error_is_kept_alive():
    import gc
    import weakref

    class Held:
        pass

    def local():
        held = Held()
        seen.append(weakref.ref(held))
        raise ValueError(held)

    seen = []
    describe_error(raised(local))
    gc.collect()
    assert seen[0]() is None
