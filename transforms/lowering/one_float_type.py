"""Keep every float of a computation in one type, whatever casts the code asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only


class OneFloatType(TorchDispatchMode):
    """Operators called under this mode take and make floats of one type; integers and booleans stay as they are.

    ``x.half()``, ``x.float()``, autocast and constants of another precision then change nothing. So a network that
    computes some layers in float32 also runs in float64, and one with float16 casts lowers to one precision.

    >>> with OneFloatType(torch.float64):
    ...     (torch.ones(2).half() * torch.ones(2, dtype=torch.float64)).dtype
    torch.float64
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args, kwargs = tuple(args), dict(kwargs or {})
        if not self._fit(args) or not self._fit(kwargs.values()):
            args, kwargs = tree_map_only((Tensor, torch.dtype), self._converted, (args, kwargs))
        result = func(*args, **kwargs)
        if _is_float(result) and kwargs.get("dtype") is None and not _any_float(args) and not _any_float(kwargs):
            # The type is torch's default, which is not said in the call, and may be less exact than this one.
            if any(argument.name == "dtype" for argument in func._schema.arguments):
                return func(*args, **{**kwargs, "dtype": self.dtype})
            args, kwargs = tree_map_only(Tensor, lambda value: value.to(self.dtype), (args, kwargs))
            result = func(*args, **kwargs)
        return result if self._fit((result,)) else tree_map_only(Tensor, self._converted, result)

    def _fit(self, values: Iterable[Any]) -> bool:
        """Whether no tensor or type among these, nor in lists of them, is to be converted; quicker than a tree map."""
        for value in values:
            if isinstance(value, Tensor):
                value = value.dtype
            if isinstance(value, torch.dtype):
                if value.is_floating_point and value != self.dtype:
                    return False
            elif isinstance(value, (list, tuple, dict)) and not self._fit(tree_leaves(value)):
                return False
        return True

    def _chosen(self, dtype: torch.dtype) -> torch.dtype:
        return self.dtype if dtype.is_floating_point else dtype

    def _converted(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return self._chosen(value)
        # Only where they differ: an operator that works in place must get its own operand.
        dtype = self._chosen(value.dtype)
        return value if value.dtype == dtype else value.to(dtype)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _any_float(values: Any) -> bool:
    return any(map(_is_float, values)) or any(map(_is_float, tree_leaves(values)))
