"""A backend in a hundred lines: numpy runs the lowered graph, node by node. It shows what a new one takes."""

from __future__ import annotations

import io
import json

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

from binmat.backends.backend import Port, Signature
from binmat.errors import VerificationError


def convolve(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups, fill=0.0):
    assert groups == 1 and not transposed and tuple(dilation) == (1, 1), "not in this toy"
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)], constant_values=fill)
    windows = sliding_window_view(x, weight.shape[2:], (2, 3))[:, :, :: stride[0], :: stride[1]]
    return np.einsum("nchwyx,ocyx->nohw", windows, weight) + (0 if bias is None else bias.reshape(-1, 1, 1))


def binary_conv2d(x, weight, multiplier, bias, stride, padding, dilation, groups, pad_value):
    total = convolve(x, weight, None, stride, padding, dilation, False, None, groups, pad_value)
    return total * multiplier.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)


OPERATORS = {
    "aten.convolution.default": convolve,
    "aten.relu.default": lambda x: np.maximum(x, 0),
    "aten.sigmoid.default": lambda x: 1 / (1 + np.exp(-x)),
    "aten.add.Tensor": lambda x, y: x + y,
    "aten.sub.Tensor": lambda x, y: x - y,
    "aten._prelu_kernel.default": lambda x, slope: np.where(x >= 0, x, x * slope),
    "binmat.binarize.default": lambda x, t: np.where(x - t.reshape(-1, 1, 1) < 0, -1, 1).astype(x.dtype),
    "binmat.binary_conv2d.default": binary_conv2d,
}


class ToyModel:
    """The file holds the nodes as JSON and the constants as arrays; it also is the runner of that file."""

    form = ""

    def __init__(self, content):
        self.content = content
        self.arrays = dict(np.load(io.BytesIO(content)))
        self.nodes, self.ports = json.loads(self.arrays.pop("nodes").item())
        self.stored = {name: name for name, op, *_ in self.nodes if op in ("placeholder", "call_function")}

    def _run(self, inputs):
        given, env = iter(inputs), {}
        for name, op, target, args in self.nodes:
            values = [env[a["node"]] if isinstance(a, dict) else a for a in args] if op != "output" else args
            if op == "call_function":
                env[name] = np.asarray(OPERATORS[target](*values), np.float32)
            else:
                env[name] = next(given).numpy() if op == "placeholder" else self.arrays.get(target, values)
        return env

    def run(self, inputs):
        env = self._run(inputs)
        return [torch.from_numpy(env[a["node"]]) for a in env["output"]]

    def values(self, groups, inputs, kernel):
        env = self._run(inputs)
        yield list(groups), {node: torch.from_numpy(env[node]) for group in groups for node in group}

    def alone(self, groups, operand, kernel):
        for group in groups:
            env = {name: operand(name).numpy() for name in group[1:]}
            env[group[0]] = self._compute(group[0], env)
            yield group, {name: torch.from_numpy(env[name]) for name in group}

    def _compute(self, wanted, env):
        """A node's value; nodes between it and those in env are constants of the file."""
        _, op, target, args = next(node for node in self.nodes if node[0] == wanted)
        if op == "get_attr":
            return self.arrays[target]

        def value(a):
            if not isinstance(a, dict):
                return a
            return env[a["node"]] if a["node"] in env else self._compute(a["node"], env)

        return np.asarray(OPERATORS[target](*map(value, args)), np.float32)


class ToyBackend:
    name, title, suffix, kernels = "toy", "the toy", ".toy.npz", ()

    def write(self, lowered, kernel=None):
        nodes, arrays = [], lowered.module.state_dict()
        shapes = {node.name: list(node.meta["val"].shape) for node in lowered.module.graph.nodes if "val" in node.meta}
        for node in lowered.module.graph.nodes:
            args = node.args[0] if node.op == "output" else node.args
            named = torch.fx.node.map_arg(list(args), lambda n: {"node": n.name})
            nodes.append((node.name, node.op, str(node.target), named))
        file = io.BytesIO()
        inputs = [shapes[name] for name, op, *_ in nodes if op == "placeholder"]
        outputs = [shapes[node["node"]] for node in nodes[-1][3]]
        sides = (lowered.inputs, inputs), (lowered.outputs, outputs)
        ports = [list(zip(names, found, strict=True)) for names, found in sides]
        np.savez(file, nodes=json.dumps([nodes, ports]), **{name: array.numpy() for name, array in arrays.items()})
        return ToyModel(file.getvalue())

    def runner(self, content, kernel):
        return ToyModel(content)

    def signature(self, content):
        sides = ToyModel(content).ports
        return Signature(*(tuple(Port(name, tuple(shape), torch.float32) for name, shape in side) for side in sides))

    def model_of_file(self, content, fresh):
        file = ToyModel(content)
        for name, array in fresh.arrays.items():
            if not np.array_equal(array, file.arrays[name]):
                raise VerificationError(f"the file is not the export of this network: constant '{name}' differs")
        return file
