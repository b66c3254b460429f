"""Which of NVIDIA's packages is driven: TensorRT 10 and 11, or TensorRT-RTX, which has the interface of TensorRT 11."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from polygraphy import config as polygraphy_config

from device_profiles.errors import RuntimeUnavailable

RTX = "tensorrt-rtx"
PACKAGES = {"tensorrt": "tensorrt", RTX: "tensorrt_rtx"}
WHEELS = {"tensorrt": "tensorrt", RTX: "tensorrt-rtx-cu13"}
LOADERS = "polygraphy.backend.trt"


@dataclass(frozen=True)
class Sdk:
    """A package and Polygraphy's loaders for it.

    Attributes:
        runtime: A key of `PACKAGES`.
        trt: The package.
        loaders: Polygraphy's module.
        create_config: Polygraphy's loader of builder configurations.
    """

    runtime: str
    trt: ModuleType
    loaders: ModuleType
    create_config: Any

    @property
    def version(self) -> str:
        """The package's version, such as "11.4.0.106"."""
        return str(self.trt.__version__)


def load_sdk(runtime: str) -> Sdk:
    """Import a package, and turn Polygraphy's loaders to it.

    Args:
        runtime: A key of `PACKAGES`.

    Raises:
        RuntimeUnavailable: The package or one of its libraries is missing, or this process drives the other one:
            Polygraphy makes its choice once.
    """
    rtx = runtime == RTX
    if LOADERS in sys.modules and rtx != polygraphy_config.USE_TENSORRT_RTX:
        raise RuntimeUnavailable(
            f"runtime (={runtime!r}) cannot follow {next(iter(PACKAGES.keys() - {runtime}))!r} in one process; start "
            "a command of its own for it"
        )
    try:
        trt = importlib.import_module(PACKAGES[runtime])
    except (ImportError, OSError) as err:  # OSError: a shared library
        raise RuntimeUnavailable(
            f"runtime {runtime!r} cannot be loaded ({err}); install it with: pip install {WHEELS[runtime]}; or use "
            "onnxruntime or openvino"
        ) from err
    polygraphy_config.USE_TENSORRT_RTX = rtx
    loaders = importlib.import_module(LOADERS)
    configs = importlib.import_module("polygraphy.backend.tensorrt_rtx") if rtx else loaders
    return Sdk(runtime, trt, loaders, configs.CreateConfigRTX if rtx else configs.CreateConfig)
