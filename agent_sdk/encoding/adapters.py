"""What stands for an object that JSON does not know: tables from a type's name to the way to open it.

Types are known by the names in their method resolution order, so that none of their libraries is imported. An adapter
opens one level only; the walk goes on with what it gives. None of them calls code of the object's own class, but for
``isoformat`` and ``str`` of standard types.
"""

from __future__ import annotations

from itertools import islice
from types import GeneratorType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, Callable, Iterable, Iterator

_SAMPLE = 20
_BYTES_SAMPLE = 64


class Opened:
    """A container to walk into: an iterator of values, or of key and value where it ``is_mapping``.

    ``is_unknown`` marks an object of which nobody said that it is data: behind it may be half a program.
    """

    __slots__ = ("is_mapping", "is_unknown", "items")

    def __init__(self, items: Iterator[Any], is_mapping: bool, is_unknown: bool = False) -> None:
        self.items = items
        self.is_mapping = is_mapping
        self.is_unknown = is_unknown


def open_value(value: Any) -> Any:
    """A leaf that JSON can hold, or what the container ``value`` holds. Never raises."""
    try:
        for kind in _mro(type(value)):
            adapter = _BY_NAME.get(_full_name(kind))
            if adapter is not None:
                return adapter(value)
        return _unknown(value)
    except Exception as error:
        return {"$type": type_name(value), "unreadable": type(error).__name__}


def is_a(value: Any, kind: type) -> bool:
    """``isinstance`` by what the object is; the built-in function also asks the object for its ``__class__``."""
    return issubclass(type(value), kind)


def type_name(value: Any) -> str:
    """Module and name of the type of ``value``, without a module for built-in types."""
    try:
        return _full_name(type(value))
    except Exception:
        return "unknown"


# A class may have a metaclass with surprises: classes are asked with the methods of `type` itself, and never hashed.


def _mro(kind: type) -> tuple[type, ...]:
    return type.__dict__["__mro__"].__get__(kind)  # type: ignore[no-any-return]


def _class_attribute(kind: type, name: str) -> Any:
    for base in _mro(kind):
        held = type.__dict__["__dict__"].__get__(base)
        if name in held:
            return held[name]
    return None


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
    held = _held(value)
    return {name: held[name] for name in list(held) if type(name) is str and not name.startswith("_")}


def _held(value: Any) -> dict[str, Any]:
    for base in _mro(type(value)):
        descriptor = type.__dict__["__dict__"].__get__(base).get("__dict__")
        if type(descriptor) is GetSetDescriptorType:
            held = descriptor.__get__(value)
            return held if type(held) is dict else {}
        if descriptor is not None:  # a property of that name, say
            break
    return {}


def _slot(value: Any, name: str) -> Any:
    descriptor = _class_attribute(type(value), name)
    if type(descriptor) is MemberDescriptorType:
        return descriptor.__get__(value)
    raise AttributeError(name)


# -- built-in types and their subclasses, read with the base type's own methods ----------------------------------------


def _dict(value: Any) -> Opened:
    return _mapping(dict.items(value))


def _tuple(value: Any) -> Opened:
    fields = _class_attribute(type(value), "_fields")
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


_BUILT_IN: dict[type, Callable[[Any], Any]] = {
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
    return _held(value)["_value_"]


def _pydantic(value: Any) -> Opened:
    fields = dict(_held(value))
    try:
        extra = _slot(value, "__pydantic_extra__")
    except AttributeError:
        extra = None
    if type(extra) is dict:
        fields.update(extra)
    return _mapping(fields.items())


def _fields_of(value: Any, names: Iterable[str]) -> Opened:
    """Fields by name, from where the instance keeps them: its ``__dict__`` or its slots."""
    found: list[tuple[str, Any]] = []
    held = _held(value)
    for name in names:
        try:
            found.append((name, held[name] if name in held else _slot(value, name)))
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
    **{_full_name(kind): adapter for kind, adapter in _BUILT_IN.items()},
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
    fields = _class_attribute(type(value), "__dataclass_fields__")
    if type(fields) is dict:
        return _fields_of(value, list(fields))
    fields = _class_attribute(type(value), "__attrs_attrs__")
    if fields is not None:
        return _fields_of(value, [field.name for field in tuple.__iter__(fields)])
    held = _attributes(value)
    if not held:
        return _only_its_type(value)
    return Opened(iter([("$type", type_name(value)), ("attributes", held)]), True, is_unknown=True)
