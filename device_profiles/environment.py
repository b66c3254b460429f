"""The machine a measurement was made on, and what could have disturbed it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Environment:
    """A snapshot of the machine; `runtimes.environment.read_environment` takes one. None: this system does not tell.

    Attributes:
        machine: Instruction set, such as "x86_64".
        system: Operating system and its release.
        cpu_model: The processor's own name for itself.
        cpu_flags: The vector extensions that decide which kernels a runtime picks, sorted.
        cores: Logical processors of the machine.
        affinity: Those this process may run on.
        cpu_quota: Processors' worth of time the container allows; None for no limit.
        hyperthreading: Whether two logical processors share a core.
        governor: Frequency governor of the first processor.
        clock_mhz: Its frequency at the time of reading.
        load: Runnable processes, averaged over the last minute.
        temperature_celsius: The hottest thermal zone.
        versions: Python and packages whose version matters.
        variables: Environment variables that change how runtimes behave.
        gpus: Names of the NVIDIA GPUs, in the driver's order.
        lowest_clock_mhz: The lowest frequency of the first processor that the governor may choose.
        highest_clock_mhz: The highest one.
        options: What the runtime says it runs with, such as its effective precision; empty where no model was loaded.
    """

    machine: str
    system: str
    cpu_model: str
    cpu_flags: tuple[str, ...]
    cores: int
    affinity: tuple[int, ...]
    cpu_quota: float | None
    hyperthreading: bool | None
    governor: str | None
    clock_mhz: float | None
    load: float | None
    temperature_celsius: float | None
    versions: Mapping[str, str]
    variables: Mapping[str, str]
    gpus: tuple[str, ...] = ()
    lowest_clock_mhz: float | None = None
    highest_clock_mhz: float | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Identify the machine by what does not change from run to run: two equal ones share profiles."""
        lasting = (self.machine, self.cpu_model, *self.cpu_flags, str(self.cores), *self.gpus)
        return hashlib.sha256("\n".join(lasting).encode()).hexdigest()[:16]
