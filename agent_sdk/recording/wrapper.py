"""What ``@track`` makes of a function. Importing this loads ``wrapt``, 15 ms of CPU that only its users pay."""

from __future__ import annotations

import functools
import importlib
from typing import Any

# pyright does not see through wrapt's choice between C and Python.
from wrapt import BoundFunctionWrapper, FunctionWrapper  # pyright: ignore[reportAttributeAccessIssue]


def _named(module: str, qualified_name: str) -> Any:
    return functools.reduce(getattr, qualified_name.split("."), importlib.import_module(module))


class BoundTracked(BoundFunctionWrapper):  # type: ignore[misc, type-arg, unused-ignore]
    """A method of an instance or a class. Copied and pickled as other methods are: by their object and name."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._self_instance is None or isinstance(self._self_instance, type):
            return _named, (self.__module__, self.__qualname__)
        return getattr, (self._self_instance, self.__name__)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class Tracked(FunctionWrapper):  # type: ignore[misc, type-arg, unused-ignore]
    """A function, class or static method. Copied and pickled as functions are: by name, so that pools can run it."""

    __bound_function_wrapper__ = BoundTracked

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__qualname__

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self
