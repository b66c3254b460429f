"""Read trained weights into a network, from files that cannot run code."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from device_profiles.errors import BadInput

# What is no state dict ends torch's unpickler in many ways.
READ_ERRORS = (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError)
READ_ERRORS += (TypeError, AttributeError)


def hash_weights(path: Path) -> str:
    """Return the SHA-256 of a file of weights: a run that goes on with others would mix two networks.

    Raises:
        BadInput: There is no such file, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise BadInput(f"weights (={path}): there is no such file") from error
    except OSError as error:
        raise BadInput(f"weights (={path}) cannot be read ({error.strerror}); give a .safetensors file") from error


def load_weights_(module: nn.Module, path: Path) -> None:
    """Load a state dict in place.

    Args:
        module: The network that the weights belong to.
        path: A .safetensors file, or what `torch.save(module.state_dict(), path)` wrote; of the latter only tensors
            are read, never code.

    Raises:
        BadInput: The file is missing or damaged, or belongs to another network.
    """
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BadInput(f"weights (={path}): there is no such file") from error
    except READ_ERRORS as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(
            f"weights (={path}) cannot be read ({reason}); give a .safetensors file or a saved state dict"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BadInput(f"weights (={path}) hold no state dict; save module.state_dict(), not the module")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise BadInput(f"weights (={path}) do not fit the network ({' '.join(str(error).split())[:300]})") from error
