"""Checkpoints of a training run: one safetensors file, no pickle, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from device_profiles.errors import BadInput
from device_profiles.store import write_whole


@dataclass(frozen=True)
class Trained:
    """What a checkpoint restores: modules and their optimizers, by name; both are changed in place."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]


@dataclass(frozen=True)
class Kept:
    """What else a checkpoint holds: small values that JSON can express, and tensors by name."""

    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save_checkpoint(path: Path, trained: Trained, kept: Kept) -> None:
    """Write weights, buffers, optimizer state and what else is kept to one file.

    Raises:
        BadInput: The place cannot be written.
    """
    tensors = {f"kept/{name}": tensor for name, tensor in kept.tensors.items()}
    groups: dict[str, list[dict[str, object]]] = {}
    for name, module in trained.modules.items():
        tensors |= {f"module/{name}/{key}": value for key, value in module.state_dict().items()}
    for name, optimizer in trained.optimizers.items():
        content = optimizer.state_dict()
        groups[name] = content["param_groups"]
        for index, moments in content["state"].items():
            tensors |= {f"optimizer/{name}/{index}/{key}": value for key, value in moments.items()}
    metadata = {"values": json.dumps(dict(kept.values)), "groups": json.dumps(groups)}
    write_whole(path, safetensors.torch.save(_apart(tensors), metadata))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give every name a memory of its own, as the format asks for: modules may use one parameter under two names."""
    found, seen = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        found[name] = tensor.contiguous()
        if (place := found[name].untyped_storage().data_ptr()) in seen:
            found[name] = found[name].clone()
        seen.add(place)
    return found


def load_checkpoint(path: Path, trained: Trained) -> Kept:
    """Restore modules and optimizers in place and return what else was kept.

    Raises:
        BadInput: The file is damaged or belongs to other modules.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 -- not a mapping
        groups = json.loads(metadata["groups"])
        for name, module in trained.modules.items():
            module.load_state_dict(below(tensors, f"module/{name}/"))
        for name, optimizer in trained.optimizers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in below(tensors, f"optimizer/{name}/").items():
                index, _, moment = key.partition("/")
                moments.setdefault(int(index), {})[moment] = value
            optimizer.load_state_dict({"state": moments, "param_groups": groups[name]})
        return Kept(json.loads(metadata["values"]), below(tensors, "kept/"))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"checkpoint {path} does not fit this run ({reason}); delete it to train again") from error


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
