"""The bundled networks, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from device_profiles.errors import BadInput

if TYPE_CHECKING:
    from torch import nn


Argument = int | float | str | bool


@dataclass(frozen=True)
class BundledModel:
    """A network that can be built by name.

    Attributes:
        factory: "package.module:callable" that builds it; a string, so that listing the names loads no torch.
        arguments: The factory's keyword arguments.
        input_shapes: One shape an input, batch first, in order: the one its published counts are for, or a usual one.
    """

    factory: str
    arguments: dict[str, Argument]
    input_shapes: tuple[tuple[int, ...], ...]


_IMAGE = (1, 3, 128, 128)
_IMAGENET = (1, 3, 224, 224)
_CIFAR = (1, 3, 32, 32)
_TINY = (1, 3, 64, 64)

MODELS: dict[str, BundledModel] = {
    "unet-16": BundledModel("compress.models.unet:UNet", {"width": 16}, (_IMAGE,)),
    "unet-32": BundledModel("compress.models.unet:UNet", {"width": 32}, (_IMAGE,)),
    "unet-64": BundledModel("compress.models.unet:UNet", {"width": 64}, (_IMAGE,)),
    "cyclegan-resnet": BundledModel("compress.models.resnet_generator:ResNetGenerator", {"width": 64}, (_IMAGE,)),
    "patchgan": BundledModel("compress.models.patchgan:PatchGan", {}, (_IMAGE, _IMAGE)),
    "srresnet": BundledModel("compress.models.srresnet:SrResNet", {"width": 64}, (_IMAGE,)),
    "dncnn": BundledModel("compress.models.dncnn:DnCnn", {"width": 64}, ((1, 1, 128, 128),)),
    "resnet-20": BundledModel("compress.models.resnet:CifarResNet", {"depth": 20, "width": 16}, (_CIFAR,)),
    "resnet-56": BundledModel("compress.models.resnet:CifarResNet", {"depth": 56, "width": 16}, (_CIFAR,)),
    "resnet-110": BundledModel("compress.models.resnet:CifarResNet", {"depth": 110, "width": 16}, (_CIFAR,)),
    "resnet-110-bottleneck": BundledModel(
        "compress.models.resnet:CifarResNet", {"depth": 110, "width": 16, "bottleneck": True}, (_CIFAR,)
    ),
    "resnet-164": BundledModel(
        "compress.models.resnet:CifarResNet", {"depth": 164, "width": 16, "bottleneck": True}, (_CIFAR,)
    ),
    "se-resnet-20": BundledModel(
        "compress.models.resnet:CifarResNet", {"depth": 20, "width": 16, "reduction": 4}, (_CIFAR,)
    ),
    "preresnet-56": BundledModel(
        "compress.models.preresnet:PreResNet", {"depth": 56, "width": 16, "late_shortcuts": True}, (_CIFAR,)
    ),
    "preresnet-164": BundledModel(
        "compress.models.preresnet:PreResNet", {"depth": 164, "width": 16, "bottleneck": True}, (_CIFAR,)
    ),
    "vggnet-19": BundledModel("compress.models.vgg:VggNet", {"depth": 19, "width": 64}, (_CIFAR,)),
    "resnet-18": BundledModel("compress.models.resnet:ImageNetResNet", {"depth": 18, "width": 64}, (_IMAGENET,)),
    "resnet-50": BundledModel("compress.models.resnet:ImageNetResNet", {"depth": 50, "width": 64}, (_IMAGENET,)),
    "se-resnet-50": BundledModel(
        "compress.models.resnet:ImageNetResNet", {"depth": 50, "width": 64, "reduction": 16}, (_IMAGENET,)
    ),
    "vgg-16": BundledModel("compress.models.vgg:ImageNetVgg", {"depth": 16, "width": 64}, (_IMAGENET,)),
    "mobilenetv1": BundledModel("compress.models.mobilenet_v1:MobileNetV1", {"width": 32}, (_IMAGENET,)),
    "mobilenetv1-tiny": BundledModel(
        "compress.models.mobilenet_v1:MobileNetV1", {"width": 32, "classes": 200}, (_TINY,)
    ),
    "mobilenetv2": BundledModel("compress.models.mobilenet_v2:MobileNetV2", {"width": 32}, (_IMAGENET,)),
    "mobilenetv2-tiny": BundledModel(
        "compress.models.mobilenet_v2:MobileNetV2", {"width": 32, "classes": 200, "tiny": True}, (_TINY,)
    ),
    "shufflenetv1-g3": BundledModel(
        "compress.models.shufflenet_v1:ShuffleNetV1", {"groups": 3, "width": 24}, (_IMAGENET,)
    ),
    "shufflenetv1-g8": BundledModel(
        "compress.models.shufflenet_v1:ShuffleNetV1", {"groups": 8, "width": 24}, (_IMAGENET,)
    ),
    "shufflenetv1-2x-g3": BundledModel(
        "compress.models.shufflenet_v1:ShuffleNetV1", {"groups": 3, "width": 48}, (_IMAGENET,)
    ),
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


def build(name: str, **arguments: Argument) -> nn.Module:
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
    if not (colon and module_name and attribute) or module_name.startswith("."):
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
