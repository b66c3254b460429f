"""Stubs: what stands in the place of the modules of a removed block, and keeps their shapes."""

from __future__ import annotations

from collections.abc import Mapping

import pydantic
import torch
from torch import Tensor, nn

from device_profiles.errors import BadInput


class Window(pydantic.BaseModel, frozen=True, extra="forbid"):
    """How a convolution's window makes one axis shorter.

    Attributes:
        reach: Positions that the window spans, less those added by padding on both sides.
        stride: Positions that it moves by.
    """

    reach: int
    stride: int


class StubShape(pydantic.BaseModel, frozen=True, extra="forbid"):
    """How the shape of a stub's result follows from its input's; axes that are not named keep their size.

    Attributes:
        sizes: Axis -> its size, whatever the input's is.
        windows: Axis -> the window that moves along it.
        constant: Number of axes of the stub's constant; None where it returns zeros.
        beside: How many None the module returned beside its result, in a tuple; None where it returned no tuple.
    """

    sizes: dict[int, int] = {}
    windows: dict[int, Window] = {}
    constant: int | None = None
    beside: int | None = None

    def of(self, shape: torch.Size) -> list[int]:
        """Return the result's shape for an input's."""
        result = list(shape)
        for axis, window in self.windows.items():
            result[axis] = (shape[axis] - window.reach) // window.stride + 1
        for axis, size in self.sizes.items():
            result[axis] = size
        return result


class Stub(nn.Module):
    """What stands in the place of a module of a removed block.

    Args:
        shape: Of its result.
        constant: What it returns, of size 1 along the axes where it is alike; zeros if None.
    """

    def __init__(self, shape: StubShape, constant: Tensor | None) -> None:
        super().__init__()
        self.shape = shape.model_copy(update={"constant": None if constant is None else constant.ndim})
        self.register_parameter("constant", None if constant is None else nn.Parameter(constant))

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor | tuple[Tensor | None, ...]:
        """Return the constant, or zeros; a copy, since the code around may work in place."""
        shape = self.shape.of(x.shape)
        if self.constant is None:
            result = x.new_zeros(shape)
        else:
            own = self.constant.shape
            result = self.constant.expand([one if one > 1 else size for one, size in zip(own, shape, strict=True)])
            result = result.clone()
        return result if self.shape.beside is None else (result, *[None] * self.shape.beside)


def stubs_of(module: nn.Module) -> dict[str, StubShape]:
    """Return the stubs of a module by name, for its record."""
    return {name: part.shape for name, part in module.named_modules() if isinstance(part, Stub)}


def blank_stubs(module: nn.Module) -> dict[str, Stub]:
    """Return stubs like those of a module with zeros for constants, for the same network with other weights."""
    parts = {name: part for name, part in module.named_modules() if isinstance(part, Stub)}
    return {
        name: Stub(part.shape, None if part.constant is None else torch.zeros_like(part.constant))
        for name, part in parts.items()
    }


def place_stubs_(module: nn.Module, stubs: Mapping[str, StubShape | Stub]) -> None:
    """Put stubs in the place of modules; constants that are not known yet are zeros, in place.

    Raises:
        BadInput: The module has no part of such a name.
    """
    for name, stub in stubs.items():
        try:
            was = module.get_submodule(name)
        except AttributeError as err:
            raise BadInput(
                f"{type(module).__name__} has no part {name!r} to leave out; build the same network"
            ) from err
        if isinstance(stub, Stub):
            placed = stub
        else:
            placed = Stub(stub, None if stub.constant is None else torch.zeros([1] * stub.constant))
        module.set_submodule(name, placed.train(was.training))
