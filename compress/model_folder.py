"""A pruned model as a folder of three files, none of them a pickle.

`model.onnx` is the network, `weights.safetensors` holds the module's tensors, and `recipe.json` says where the
original came from, which channels were kept, what wrote the folder and the hashes of the other two. The recipe is
written last and names its own hash: a folder without it, or whose files do not match it, is not a saved model.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as pack_tensors
from torch import Tensor, nn

from compress.gathered import Grouping, groupings_of, place_groupings_
from compress.graph.channels import Keep
from compress.graph.network import Network
from compress.stubs import StubShape, place_stubs_, stubs_of
from compress.surgery import mend_attributes_, named_tensors
from device_profiles.errors import BadInput
from device_profiles.store import write_whole
from runtimes.model_file import to_bytes

MODEL, WEIGHTS, RECIPE = "model.onnx", "weights.safetensors", "recipe.json"
FORMAT = "espalier pruned model"
SCHEMA = 3  # 1: the first; 2: the stubs of removed blocks; 3: convolutions that became grouped ones
VERSIONS_OF = ("espalier", "torch", "onnx")
# A folder may come from anywhere, and building its original calls what it names. Only these may be called unasked.
TRUSTED = ("compress.models",)


class Origin(pydantic.BaseModel, frozen=True, extra="forbid", strict=True):
    """Where an original network came from.

    Attributes:
        factory: "package.module:callable" that returns the module.
        arguments: The callable's keyword arguments, as JSON can hold them.
    """

    factory: str
    arguments: dict[str, Any] = {}

    @pydantic.field_validator("factory")
    @classmethod
    def _names_a_callable(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*", value):
            raise ValueError("must look like package.module:callable")
        return value


class Record(pydantic.BaseModel, frozen=True, extra="forbid"):
    """What `recipe.json` holds.

    Attributes:
        origin: Where the original came from.
        keep: Channel set -> indices of the channels that were kept; without the removed blocks where there are any.
        stubs: Module -> what stands in its place, where a block was removed.
        groupings: Convolution -> how the one is grouped that took its place.
        channels_last: Whether the module's weights lie with their channels last in memory.
        versions: Package -> version that wrote the folder.
        sha256: File -> hash.
    """

    origin: Origin
    keep: dict[str, list[int]]
    stubs: dict[str, StubShape] = {}
    groupings: dict[str, Grouping] = {}
    channels_last: bool
    versions: dict[str, str]
    sha256: dict[str, str]


def save_folder(path: Path, module: nn.Module, network: Network, keep: Keep, origin: Origin) -> None:
    """Write a pruned model, whole or not at all.

    Args:
        path: The folder; other files in it are left alone.
        module: The pruned module.
        network: The same as an ONNX network, such as `deployable` returns.
        keep: What was kept of the original.
        origin: How to build the original.

    Raises:
        BadInput: The origin cannot be written as JSON, or the folder cannot be written.
    """
    tensors = named_tensors(module)
    channels_last = any(_is_channels_last(tensor) for tensor in tensors.values())
    files = {
        MODEL: to_bytes(network.model),
        WEIGHTS: pack_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}),
    }
    record = Record(
        origin=origin,
        keep={name: np.asarray(indices).tolist() for name, indices in keep.items()},
        stubs=stubs_of(module),
        groupings=groupings_of(module),
        channels_last=channels_last,
        versions={name: metadata.version(name) for name in VERSIONS_OF},
        sha256={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    try:
        recipe = _sealed(record.model_dump())
    except (TypeError, ValueError) as err:
        raise BadInput(f"arguments of {origin.factory!r} must be plain JSON values ({err})") from err
    (path / RECIPE).unlink(missing_ok=True)  # from here on the folder is no saved model until the last line
    for name, content in files.items():
        write_whole(path / name, content)
    write_whole(path / RECIPE, recipe)


def read_record(path: Path) -> Record:
    """Read and check a folder's recipe, and the hashes of its files.

    Raises:
        BadInput: The folder is no saved model, was written by a newer version, or a file was changed.
    """
    try:
        document = json.loads((path / RECIPE).read_bytes())
    except FileNotFoundError as err:
        raise BadInput(
            f"{path} holds no {RECIPE}, so it is no saved model; give a folder that was saved whole"
        ) from err
    except (OSError, ValueError) as err:
        raise BadInput(f"{path / RECIPE} cannot be read as JSON ({err}); save the model again") from err
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadInput(f"{path / RECIPE} is not the recipe of a {FORMAT}; give a folder that this toolkit saved")
    if document.get("schema") not in range(1, SCHEMA + 1):
        raise BadInput(
            f"{path / RECIPE} has schema {document.get('schema')!r}, this version reads up to {SCHEMA}; update the "
            "toolkit"
        )
    try:
        record = Record.model_validate(document.get("model"))
        intact = document.get("sha256") == json.loads(_sealed(document["model"]))["sha256"]
    except pydantic.ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{path / RECIPE}: {where}: {first['msg']}; save the model again") from err
    if not intact or set(record.sha256) != {MODEL, WEIGHTS}:
        raise BadInput(f"{path / RECIPE} was changed after it was saved (its hash differs); save the model again")
    for name, wanted in record.sha256.items():
        if hashlib.sha256(_read(path / name)).hexdigest() != wanted:
            raise BadInput(f"{path / name} was changed after it was saved (its hash differs); save the model again")
    return record


def load_network(path: Path | str) -> Network:
    """Load the ONNX network; this needs nothing of the code that the original was made by.

    Raises:
        BadInput: The folder is not whole or was changed.
    """
    path = Path(path)
    read_record(path)
    return Network.read(path / MODEL)


def load_folder(path: Path | str, trusted: Sequence[str] = ()) -> nn.Module:
    """Rebuild the pruned module: build the original, replace what was replaced, and load tensors of the pruned sizes.

    Args:
        path: A folder that `save_folder` wrote.
        trusted: Packages or modules whose callables the folder may call to build the original, beside the bundled
            models.

    Returns:
        The module in eval mode; its outputs are those of the saved one, bit by bit.

    Raises:
        BadInput: The folder is not whole or was changed, or the original cannot be built; `load_network` may still
            do.
    """
    path = Path(path)
    record = read_record(path)
    try:
        tensors = read_tensors(_read(path / WEIGHTS))
    except SafetensorError as err:
        raise BadInput(f"{path / WEIGHTS} cannot be read ({err}); save the model again") from err
    module = _build(record.origin, trusted)
    place_stubs_(module, record.stubs)
    place_groupings_(module, record.groupings)
    _load_(module, tensors, record.origin.factory)
    if record.channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module.eval()


def _build(origin: Origin, trusted: Sequence[str]) -> nn.Module:
    module_name, _, name = origin.factory.partition(":")
    if not any(module_name == one or module_name.startswith(f"{one}.") for one in (*TRUSTED, *trusted)):
        raise BadInput(
            f"the original is built by {origin.factory!r}; pass trusted=({module_name.split('.')[0]!r},) if you "
            "trust it, or use load_network, which runs no code"
        )
    try:
        factory: Any = importlib.import_module(module_name)
        for part in name.split("."):
            factory = getattr(factory, part)
    except (ImportError, AttributeError) as err:
        raise BadInput(
            f"the original's factory {origin.factory!r} is not here ({err}); install its package, or use load_network"
        ) from err
    try:
        module = factory(**origin.arguments)
    except (TypeError, ValueError) as err:
        raise BadInput(
            f"{origin.factory}({origin.arguments}) does not build the original ({err}); use load_network"
        ) from err
    if not isinstance(module, nn.Module):
        raise BadInput(f"{origin.factory!r} returned a {type(module).__name__}, not a torch module; use load_network")
    return module


def _load_(module: nn.Module, tensors: Mapping[str, Tensor], factory: str) -> None:
    own = named_tensors(module)
    if own.keys() != tensors.keys():
        odd = sorted(own.keys() ^ tensors.keys())[0]
        raise BadInput(f"{factory!r} now builds another network (tensor {odd!r} differs); use load_network")
    for name, tensor in own.items():
        if tensor.ndim != tensors[name].ndim:
            raise BadInput(f"{factory!r} now builds another network (tensor {name!r} differs); use load_network")
        tensor.data = tensors[name].clone()
    for part in module.modules():
        mend_attributes_(part)


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _sealed(record: Mapping[str, Any]) -> str:
    """Serialise a record with the hash of its own content."""
    content = json.dumps(record, allow_nan=False, sort_keys=True)
    seal = hashlib.sha256(content.encode()).hexdigest()
    document = {"format": FORMAT, "schema": SCHEMA, "sha256": seal, "model": record}
    return json.dumps(document, allow_nan=False, indent=1) + "\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise BadInput(f"cannot read {path} ({err.strerror}); save the model again") from err
