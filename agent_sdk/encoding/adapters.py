"""What stands for an object that JSON does not know: tables from a type's name to the way to open it.

Types are known by the names in their method resolution order, so that none of their libraries is imported. An adapter
opens one level only; the walk goes on with what it gives. None of them calls code of the object's own class, but for
``isoformat`` and ``str`` of standard types.
"""

from __future__ import annotations

from itertools import islice
from types import GeneratorType
from typing import Any, Callable, Iterable, Iterator

_SAMPLE = 20
_BYTES_SAMPLE = 64


class Opened:
    """A container to walk into: an iterator of values, or of key and value where it ``is_mapping``."""

    __slots__ = ("is_mapping", "items")

    def __init__(self, items: Iterator[Any], is_mapping: bool) -> None:
        self.items = items
        self.is_mapping = is_mapping


def open_value(value: Any) -> Any:
    """A leaf that JSON can hold, or what the container ``value`` holds. Never raises."""
    try:
        for kind in type.__dict__["__mro__"].__get__(type(value)):
            adapter = _BY_TYPE.get(kind) or _BY_NAME.get(_full_name(kind))
            if adapter is not None:
                return adapter(value)
        return _unknown(value)
    except Exception as error:
        return {"$type": type_name(value), "unreadable": type(error).__name__}


def type_name(value: Any) -> str:
    """Module and name of the type of ``value``, without a module for built-in types."""
    try:
        return _full_name(type(value))
    except Exception:
        return "unknown"


def _full_name(kind: type) -> str:
    module = type.__dict__["__module__"].__get__(kind)
    name: str = type.__dict__["__qualname__"].__get__(kind)
    return name if module == "builtins" or type(module) is not str else f"{module}.{name}"


def _mapping(items: Iterable[Any]) -> Opened:
    return Opened(iter(items), True)


def _sequence(items: Iterable[Any]) -> Opened:
    return Opened(iter(items), False)


def _marked(value: Any, **known: Any) -> Opened:
    return _mapping([("$type", type_name(value)), *known.items()])


def _attributes(value: Any) -> dict[str, Any]:
    """What the instance itself holds: no property, no descriptor, nothing lazy is touched."""
    held = object.__getattribute__(value, "__dict__")
    return {name: held[name] for name in list(held) if type(name) is str and not name.startswith("_")}


# -- built-in types and their subclasses, read with the base type's own methods ----------------------------------------


def _dict(value: Any) -> Opened:
    return _mapping(dict.items(value))


def _tuple(value: Any) -> Opened:
    fields = getattr(type(value), "_fields", None)
    if type(fields) is tuple and len(fields) == tuple.__len__(value):
        return _mapping(zip(fields, tuple.__iter__(value)))
    return _sequence(tuple.__iter__(value))


def _bytes(value: Any) -> Opened:
    data = memoryview(value)
    return _marked(value, length=data.nbytes, head=bytes(data[:_BYTES_SAMPLE]).hex())


def _named(value: Any) -> Opened:
    return _marked(value, name=f"{value.__module__}.{value.__qualname__}")


def _class(value: Any) -> Opened:
    return _mapping([("$type", "type"), ("name", _full_name(value))])


def _exception(value: Any) -> Opened:
    return _marked(value, arguments=list(BaseException.__dict__["args"].__get__(value)))


def _only_its_type(value: Any) -> Opened:
    return _marked(value)


_BY_TYPE: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    bool: lambda value: value,
    int: int.__int__,
    float: lambda value: float.__add__(value, 0.0),
    dict: _dict,
    list: lambda value: _sequence(list.__iter__(value)),
    tuple: _tuple,
    set: lambda value: _sequence(set.__iter__(value)),
    frozenset: lambda value: _sequence(frozenset.__iter__(value)),
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    range: lambda value: {"$type": "range", "start": value.start, "stop": value.stop, "step": value.step},
    complex: lambda value: {"$type": "complex", "real": str(value.real), "imag": str(value.imag)},
    BaseException: _exception,
    type: _class,
    type(_named): _named,
    type(len): lambda value: _marked(value, name=value.__name__),
    type({}.items()): _only_its_type,
    GeneratorType: _only_its_type,
}


# -- types of the standard library and of libraries, by name ----------------------------------------------------------


def _enum(value: Any) -> Any:
    return object.__getattribute__(value, "_value_")


def _pydantic(value: Any) -> Opened:
    fields = dict(object.__getattribute__(value, "__dict__"))
    try:
        extra = object.__getattribute__(value, "__pydantic_extra__")
    except AttributeError:
        extra = None
    if type(extra) is dict:
        fields.update(extra)
    return _mapping(fields.items())


def _fields_of(value: Any, names: Iterable[str]) -> Opened:
    """Fields by name, from where the instance keeps them: its ``__dict__`` or its slots."""
    found = []
    for name in names:
        try:
            found.append((name, object.__getattribute__(value, name)))
        except AttributeError:
            found.append((name, {"$type": "missing"}))
    return _mapping(found)


def _array(value: Any) -> Opened:
    flat = value.reshape(-1)
    return _marked(value, shape=list(value.shape), dtype=str(value.dtype), head=flat[:_SAMPLE].tolist())


def _frame(value: Any) -> Opened:
    head = value.iloc[:_SAMPLE]
    return _marked(
        value,
        shape=list(value.shape),
        columns=[str(column) for column in islice(value.columns, 100)],
        head=head.astype(object).values.tolist(),
    )


def _series(value: Any) -> Opened:
    return _marked(value, shape=list(value.shape), dtype=str(value.dtype), head=value.iloc[:_SAMPLE].tolist())


def _isoformat(value: Any) -> str:
    return str(value.isoformat())


_BY_NAME: dict[str, Callable[[Any], Any]] = {
    "datetime.datetime": _isoformat,
    "datetime.date": _isoformat,
    "datetime.time": _isoformat,
    "datetime.timedelta": str,
    "uuid.UUID": str,
    "decimal.Decimal": str,
    "fractions.Fraction": str,
    "pathlib.PurePath": str,
    "pathlib._local.PurePath": str,
    "ipaddress._BaseAddress": str,
    "enum.Enum": _enum,
    "re.Pattern": lambda value: _marked(value, pattern=value.pattern),
    "types.MappingProxyType": lambda value: _mapping(list(value.items())),
    "mappingproxy": lambda value: _mapping(list(value.items())),
    "collections.deque": lambda value: _sequence(list(value)),
    "collections.UserDict": lambda value: _mapping(list(_attributes(value).get("data", {}).items())),
    "collections.UserList": lambda value: _sequence(list(_attributes(value).get("data", ()))),
    "types.SimpleNamespace": lambda value: _mapping(_attributes(value).items()),
    "array.array": lambda value: _marked(value, length=len(value), head=value[:_SAMPLE].tolist()),
    "pydantic.main.BaseModel": _pydantic,
    "pydantic.v1.main.BaseModel": _pydantic,
    "numpy.ndarray": _array,
    "numpy.generic": lambda value: value.item(),
    "pandas.core.frame.DataFrame": _frame,
    "pandas.DataFrame": _frame,
    "pandas.core.series.Series": _series,
    "pandas.Series": _series,
}


def _unknown(value: Any) -> Any:
    """An object of a class that nobody told us about: by its fields (dataclasses, attrs), else by what it holds."""
    kind = type(value)
    fields = getattr(kind, "__dataclass_fields__", None) or getattr(kind, "__attrs_attrs__", None)
    if type(fields) is dict:
        return _fields_of(value, list(fields))
    if isinstance(fields, tuple):
        return _fields_of(value, [field.name for field in fields])
    try:
        held = _attributes(value)
    except AttributeError:
        return _only_its_type(value)
    return _marked(value, attributes=held) if held else _only_its_type(value)
