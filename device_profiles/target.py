"""What a model is measured on: a runtime, the device it drives and how it is set up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from device_profiles.errors import BadInput

Precision = Literal["f32", "tf32", "bf16", "f16"]


@dataclass(frozen=True)
class Target:
    """A runtime with its device, precision, threads and batch: everything a latency depends on but the machine.

    Args:
        runtime: A name from `runtimes.base.RUNTIMES`, such as "onnxruntime".
        device: The runtime's own word for the device: "cpu", "cuda", "cuda:1", "gpu".
        precision: The arithmetic that is asked for; a session that cannot give it refuses to open.
        threads: CPU threads of one inference, at least 1.
        batch: Samples of one inference, at least 1.
        version: The runtime's version; empty until a session has been opened.
    """

    runtime: str
    device: str = "cpu"
    precision: Precision = "f32"
    threads: int = 1
    batch: int = 1
    version: str = ""

    def __post_init__(self) -> None:
        for field in ("runtime", "device"):
            if not getattr(self, field):
                raise BadInput(f"{field} (='') must be named, such as 'onnxruntime' on 'cpu'")
        if self.precision not in get_args(Precision):
            raise BadInput(f"precision (={self.precision!r}) must be one of {', '.join(get_args(Precision))}")
        for field in ("threads", "batch"):
            if getattr(self, field) < 1:
                raise BadInput(f"{field} (={getattr(self, field)}) must be at least 1")

    @property
    def name(self) -> str:
        """Short name for tables and file names.

        Example:
            >>> Target("onnxruntime").name, Target("openvino", precision="bf16").name
            ('onnxruntime-cpu', 'openvino-cpu-bf16')
        """
        suffix = "" if self.precision == "f32" else f"-{self.precision}"
        return f"{self.runtime}-{self.device.replace(':', '-')}{suffix}"
