"""What a call takes and returns besides tensors: the nesting of its arguments and of its result."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from binmat.errors import InputError

from .traced_number import plain


class Structure:
    """A nested value with its tensors taken out: tuples, lists, dicts, named tuples, dataclasses, in any nesting.

    names: of its tensors, in order, made of the keys that lead to them.

    >>> import torch
    >>> structure = Structure({"image": torch.zeros(1), "scales": (torch.ones(1), 0.5)})
    >>> structure.names
    ('image', 'scales_0')
    """

    def __init__(self, value: Any) -> None:
        paths, self._spec = _flatten(value)
        self._leaves = [None if isinstance(leaf, Tensor) else plain(leaf) for _, leaf in paths]
        self._tensors = [index for index, (_, leaf) in enumerate(paths) if isinstance(leaf, Tensor)]
        self.names = tuple(_name(paths[index][0]) for index in self._tensors)
        self._all_names = tuple(_name(path) for path, _ in paths)

    def __deepcopy__(self, memo: dict[int, Any]) -> Structure:
        return self  # Nothing changes it.

    def rebuild(self, tensors: Sequence[Tensor]) -> Any:
        """The nested value with these tensors in it."""
        leaves = list(self._leaves)
        for index, tensor in zip(self._tensors, tensors, strict=True):
            leaves[index] = tensor
        return pytree.tree_unflatten(leaves, self._spec)

    def tensors_of(self, value: Any, what: str) -> list[Tensor]:
        """The tensors of another value of the same structure. what: names it in the InputError for any other."""
        paths, spec = _flatten(value)
        if spec != self._spec:
            raise InputError(
                f"{what}: traced with {', '.join(self._all_names)}, called with "
                f"{', '.join(_name(path) for path, _ in paths)}: trace or convert with example inputs of this call"
            )
        for index, (path, leaf) in enumerate(paths):
            if isinstance(leaf, Tensor) != (index in self._tensors) or not (
                isinstance(leaf, Tensor) or _same(leaf, self._leaves[index])
            ):
                given = "a tensor" if isinstance(leaf, Tensor) else " ".join(repr(leaf).split())
                traced = "a tensor" if index in self._tensors else " ".join(repr(self._leaves[index]).split())
                raise InputError(
                    f"{what}: {_name(path)} was {traced} when it was traced and is {given} now: "
                    "trace or convert with example inputs of this call"
                )
        return [paths[index][1] for index in self._tensors]


class Call:
    """The call of a module that example arguments make.

    arguments: by parameter of ``forward``, or in its order under any other names. Those that are left out have their
    defaults. names: of the tensors among them.

    >>> import torch
    >>> call = Call(nn.Linear(2, 3), {"input": torch.zeros(1, 2)})
    >>> call.names, call(nn.Linear(2, 3), call.tensors((torch.ones(4, 2),), {})).shape
    (('input',), torch.Size([4, 3]))
    """

    def __init__(self, module: nn.Module, arguments: Mapping[str, Any]) -> None:
        self.name = type(module).__name__
        try:
            self.signature = _without_annotations(inspect.signature(module.forward))
        except ValueError as error:
            raise InputError(f"{self.name} is compiled (torch.jit): pass the Python module it was made from") from error
        self.structure = Structure(self._complete(arguments))
        self.names = self.structure.names
        if not self._by_parameter(arguments) and len(arguments) == len(self.names):
            self.names = tuple(arguments)

    def tensors_in(self, arguments: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of other arguments of the same structure, by parameter. Raises InputError for any other."""
        return self.structure.tensors_of(self._complete(arguments), self.name)

    def by_name(self, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of other arguments of the same structure, by name. Raises InputError for any other."""
        return dict(zip(self.names, self.tensors_in(arguments), strict=True))

    def tensors(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The tensors of a call as the user writes it. Raises InputError for a call of another structure."""
        return self.tensors_in(self._bind(*args, **kwargs).arguments)

    def __call__(self, module: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """Call the module with these tensors."""
        bound = inspect.BoundArguments(self.signature, self.structure.rebuild(tensors))
        return module(*bound.args, **bound.kwargs)

    def _bind(self, *args: Any, **kwargs: Any) -> inspect.BoundArguments:
        try:
            return self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(f"{self.name}{self.signature}: {error}") from error

    def _by_parameter(self, arguments: Mapping[str, Any]) -> bool:
        return set(arguments) <= set(self.signature.parameters)

    def _complete(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments in the order of the parameters, with the defaults of those that are left out."""
        if self._by_parameter(arguments):
            bound = inspect.BoundArguments(self.signature, dict(arguments))
        else:
            bound = self._bind(*arguments.values())
        bound.apply_defaults()
        missing = [name for name in self.signature.parameters if name not in bound.arguments]
        if missing:
            raise InputError(f"{self.name}{self.signature}: the example inputs have no '{missing[0]}'")
        return dict(bound.arguments)


def leaves_of(value: Any) -> list[Any]:
    """What a nested value holds, in order."""
    return [leaf for _, leaf in _flatten(value)[0]]


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a nested value, in order."""
    return [leaf for leaf in leaves_of(value) if isinstance(leaf, Tensor)]


def _without_annotations(signature: inspect.Signature) -> inspect.Signature:
    """Annotations may be of types that cannot be pickled."""
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return inspect.Signature(parameters)


def _flatten(value: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """(path, leaf) of every leaf, and the nesting. Dataclasses are made known to PyTorch on the way."""
    while True:
        paths, spec = pytree.tree_flatten_with_path(value)
        unknown = {type(leaf) for _, leaf in paths if is_dataclass(leaf) and not isinstance(leaf, type)}
        if not unknown:
            return paths, spec
        for kind in unknown:
            pytree.register_dataclass(kind)


def _same(value: Any, traced: Any) -> bool:
    """Whether an argument that is no tensor is the traced one; numpy's arrays compare element by element."""
    if value is traced:
        return True
    try:
        equal = value == traced
        return bool(equal.all() if hasattr(equal, "all") else equal)
    except Exception:  # What cannot be compared is another one.
        return False


def _name(path: Iterable[Any]) -> str:
    parts = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    if parts and parts[0].isdigit():
        parts[0] = f"output{parts[0]}"
    text = "_".join(parts) or "output0"
    return "".join(c if c.isalnum() else "_" for c in text)
