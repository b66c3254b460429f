"""The bundled networks, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from device_profiles.errors import BadInput

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BundledModel:
    """A network that can be built by name.

    Attributes:
        factory: "package.module:callable" that builds it; a string, so that listing the names loads no torch.
        arguments: The factory's keyword arguments.
        input_shapes: One shape an input, batch first, in order.
    """

    factory: str
    arguments: dict[str, int]
    input_shapes: tuple[tuple[int, ...], ...]


_IMAGE = (1, 3, 128, 128)

MODELS: dict[str, BundledModel] = {
    "unet-16": BundledModel("compress.models.unet:UNet", {"width": 16}, (_IMAGE,)),
    "unet-32": BundledModel("compress.models.unet:UNet", {"width": 32}, (_IMAGE,)),
    "unet-64": BundledModel("compress.models.unet:UNet", {"width": 64}, (_IMAGE,)),
    "patchgan": BundledModel("compress.models.patchgan:PatchGan", {}, (_IMAGE, _IMAGE)),
}


def find(name: str) -> BundledModel:
    """Look a bundled network up.

    Raises:
        BadInput: There is none of that name.
    """
    if name not in MODELS:
        raise BadInput(
            f"model (={name!r}) is not a bundled network; bundled are {', '.join(MODELS)}; or give an .onnx file or "
            "package.module:callable"
        )
    return MODELS[name]


def build(name: str, **arguments: int) -> nn.Module:
    """Build a bundled network with fresh random weights.

    Args:
        name: One of `MODELS`.
        arguments: Override the factory's arguments, as in `build("unet-32", width=20)`.

    Raises:
        BadInput: There is none of that name.
    """
    model = find(name)
    factory = import_callable(model.factory)
    return factory(**{**model.arguments, **arguments})


def import_callable(reference: str) -> Callable[..., nn.Module]:
    """Import what "package.module:callable" names.

    Raises:
        BadInput: It is not of that form, or there is no such module or callable.
    """
    import importlib

    module_name, colon, attribute = reference.partition(":")
    if not (colon and module_name and attribute):
        raise BadInput(f"reference (={reference!r}) must look like package.module:callable")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"reference (={reference!r}): no module named {error.name!r}; install it or run where it can be imported"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise BadInput(f"reference (={reference!r}): {module_name} has no callable {attribute!r}")
    return found
