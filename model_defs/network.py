"""The base class of every network: an official call on top of traceable modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from binmat.errors import InputError, SizeError
from binmat.model_defs.conversion_facts import ConversionFacts
from binmat.model_defs.insertion_points import EncoderInsertionPoint, MaskHeadInsertionPoint
from binmat.model_defs.network_option import NetworkOption, check_options
from binmat.progress import Progress, silent


@dataclass(frozen=True)
class Example:
    """Example inputs of a network at a fixed size: one call as it is deployed, batch 1 and one frame.

    mode: the mode that this call runs (a key of ``Network.modes``).
    inputs: argument name -> tensor (NCHW float) or Python number, in the order of the mode's method.
    outputs: names of what the mode returns, in order. A name that is also an input is a state: it is fed back
        on the next frame.

    >>> example = Example("forward", {"x": torch.zeros(1, 3, 4, 6), "h": torch.zeros(1, 8, 4, 6)}, ("alpha", "h"))
    >>> example.size, example.states
    ((4, 6), ('h',))
    """

    mode: str
    inputs: dict[str, torch.Tensor | float]
    outputs: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame: the first tensor that has both, or (1, 1)."""
        tensors = [value for value in self.inputs.values() if isinstance(value, torch.Tensor)]
        height, width = next((value.shape[-2:] for value in tensors if value.dim() > 2), (1, 1))
        return height, width

    @property
    def states(self) -> tuple[str, ...]:
        """Names that are both an input and an output, carried from frame to frame."""
        return tuple(name for name in self.outputs if name in self.inputs)


class Window(NamedTuple):
    """A part of an image, in its pixels; it may reach beyond the image's border, where the image was padded."""

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True)
class Prediction:
    """A network's result for one frame.

    alpha: [1, 1, H, W] in [0, 1]. foreground: colours [1, 3, H, W] in [0, 1], None where the network predicts none.
    memory: what the next frame of the same clip needs, None where frames are independent.
    notes: what the user should know about how the input was read, one sentence each.
    details: how the matte was made, by name, for users and programs: PAM's path and its cost.
    windows: what the network looked at, one window for each of its last calls; None for the image as it is, () where it
    did not run or looked at turned copies.
    """

    alpha: torch.Tensor
    foreground: torch.Tensor | None = None
    memory: Any = None
    notes: tuple[str, ...] = ()
    details: Mapping[str, str | float] = field(default_factory=dict)
    windows: tuple[Window, ...] | None = None


class Network(nn.Module):
    """A network that keeps its official call and is traceable by torch.fx, mode by mode.

    A mode is a method without data-dependent branches whose arguments are tensors (and numbers that are fixed
    when the graph is lowered): time is folded into the batch, states are always tensors. ``forward`` is the
    official call: it prepares the arguments, chooses the mode and calls :meth:`run`. Once the network is traced
    (``binmat.transforms.trace``) each mode has a graph in ``programs`` and :meth:`run` executes that instead of the
    method, so a rewritten network still takes the official call.
    """

    #: The registry's name; a class that serves several sets it per instance.
    name: str
    modes: ClassVar[Mapping[str, str]] = {"forward": "frames"}
    #: Default policy: layer name pattern (fnmatch) -> why the layer stays float.
    float_layers: Mapping[str, str] = {}
    #: Smallest height and width that the network takes.
    min_size: int = 16
    #: Height and width must be multiples of this.
    size_multiple: ClassVar[int] = 1
    #: Inputs and outputs of the mode ``matting``, for :meth:`example`: input name -> channels, all at the frame's size.
    example_channels: ClassVar[Mapping[str, int]] = {}
    example_outputs: ClassVar[tuple[str, ...]] = ("alpha",)
    #: Where BiMatting's encoder and sparse decoder go; None where the network does not say.
    encoder_insertion_point: ClassVar[EncoderInsertionPoint | None] = None
    mask_head_insertion_point: ClassVar[MaskHeadInsertionPoint | None] = None
    #: Whether :meth:`predict` needs ``background``: a picture of the same scene without its subject.
    takes_background: ClassVar[bool] = False
    #: Options of this network alone, for mattes and conversions.
    options: ClassVar[tuple[NetworkOption, ...]] = ()
    #: The call that a module of any other class was traced with, and whether it is one image, of no certain size.
    traced_example: Example | None = None
    takes_an_image: bool = False

    def __init__(self, **config: Any) -> None:
        super().__init__()
        #: Constructor arguments, enough to build the same architecture again.
        self.config: dict[str, Any] = config
        #: The record that binmat.transforms.convert leaves; None for a float network.
        self.conversion: ConversionFacts | None = None
        #: Mode -> the graph that runs instead of the mode's method; called with this module and the arguments.
        self.programs: dict[str, Callable[..., Any]] = {}

    def run(self, mode: str, *args: Any) -> Any:
        """Run one mode: its graph where the network is traced, its method otherwise."""
        program = self.programs.get(mode)
        if program is not None:
            return program(self, *args)
        return getattr(self, self.modes[mode])(*args)

    def output_names(self, mode: str) -> tuple[str, ...] | None:
        """What a mode returns, in order, side outputs included; None where the network has no names for it."""
        if mode != "matting" or not self.example_channels:
            return None
        return (*self.example_outputs, *(self.conversion.side_outputs if self.conversion else ()))

    @classmethod
    def normalise_keys(cls, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A checkpoint's tensors under the keys of this class, for layouts that differ from it."""
        return dict(state)

    def example(
        self, height: int, width: int, downsample_ratio: float = 1.0, device: torch.device | str = "cpu"
    ) -> Example:
        """The example inputs (batch 1, one frame) at this size: zero tensors.

        Raises SizeError for a size or a downsample ratio that the network does not take.
        """
        if not self.example_channels:
            raise NotImplementedError(f"{type(self).__name__} must say what its example inputs are")
        self.refuse_ratio(downsample_ratio)
        self.check_size(height, width)
        inputs: dict[str, torch.Tensor | float] = {
            name: torch.zeros(1, channels, height, width, device=device)
            for name, channels in self.example_channels.items()
        }
        return Example("matting", inputs, self.output_names("matting") or self.example_outputs)

    def notes_on(self, example: Example) -> tuple[str, ...]:
        """What the user should know about a call with these inputs, one sentence each."""
        return ()

    def flattened(self, example: Example) -> Example:
        """An example that a user gives, with the tensors in its inputs by the names of the mode's arguments."""
        return example

    def frame_inputs(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """An image [1, 3, H, W] in [0, 1] as example inputs, without states, to verify exported models on.

        A network that needs a trimap takes :func:`binmat.model_defs.trimap.portrait_trimap`. Empty where the network
        does not say.
        """
        return {}

    def predict(
        self,
        image: torch.Tensor,
        memory: Any = None,
        *,
        trimap: torch.Tensor | None = None,
        downsample_ratio: float = 1.0,
        progress: Progress = silent,
    ) -> Prediction:
        """The matte of one image [1, 3, H, W] in [0, 1] of any size that the network takes, or can be padded to.

        memory: of the frame before, from its Prediction. trimap: for the networks that need one, of the image's size,
        with any values that :func:`binmat.model_defs.trimap.read_trimap` reads, for example [1, 1, H, W] of 0
        background, 0.5 unknown, 1 foreground. progress: called by the networks that take several steps for one image.
        The network's :attr:`options` are further keyword arguments, and ``background``, [1, 3, H, W] in [0, 1], where
        it :attr:`takes_background`. Raises InputError where a trimap is missing, does not fit or is not taken, and for
        a network that does not define this method, SizeError for a size or a downsample ratio that the network does not
        take.
        """
        raise InputError(
            f"binmat does not know how {self.name} mattes an image: call it with tensors, as the module it was "
            "made of, or define predict in a subclass of binmat.model_defs.network.Network"
        )

    def specialised(self, size: tuple[int, int] | None = None, **options: Any) -> Network:
        """The part of the network to convert that the options choose, by default the network itself.

        size: height and width to convert for; None stands for the network's usual size. options: those of
        :attr:`options` that are for conversions. Raises UnknownNameError for any other.
        """
        check_options(f"{self.name} for conversions", (option for option in self.options if option.converts), options)
        return self

    def refuse_ratio(self, downsample_ratio: float) -> None:
        """Raise SizeError for a downsample ratio, for networks that have none."""
        if downsample_ratio != 1:
            raise SizeError(
                f"{self.name} has no downsample ratio: leave out {downsample_ratio} and give a smaller size"
            )

    def check_size(self, height: int, width: int) -> None:
        """Raise SizeError where the network cannot take this size."""
        if height < self.min_size or width < self.min_size:
            raise SizeError(
                f"size {height}x{width} is too small for {self.name}: height and width must be at least {self.min_size}"
            )
        multiple = self.size_multiple
        if height % multiple or width % multiple:
            up = f"{-(-height // multiple) * multiple}x{-(-width // multiple) * multiple}"
            raise SizeError(
                f"size {height}x{width} does not fit {self.name}: "
                f"height and width must be multiples of {multiple}, for example {up}"
            )


@dataclass(frozen=True)
class NetworkSpec:
    """How the registry knows a network.

    recognise: takes {key: shape} of a checkpoint's tensors; returns the constructor arguments, or None.
    layouts: checkpoint layouts that load, in words, for ``binmat networks``.
    """

    name: str
    task: str
    inputs: str
    paper: str
    build: type[Network]
    recognise: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, Any] | None]
    config: Mapping[str, Any] = field(default_factory=dict)
    layouts: tuple[str, ...] = ()
    example_size: tuple[int, int] = (512, 512)
