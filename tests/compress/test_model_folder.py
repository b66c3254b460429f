from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress.export import deployable, export_module
from compress.graph.network import Network
from compress.graph.run import random_feeds, run
from compress.model_folder import MODEL, RECIPE, WEIGHTS, Origin, load_folder, load_network, read_record, save_folder
from compress.models.unet import UNet
from compress.surgery import prune_module
from device_profiles.errors import BadInput
from tests.compress.graph.examples import random_keep, unet_graph

ORIGIN = Origin(factory="compress.models.unet:UNet", arguments={"width": 4})


@pytest.fixture(scope="module")
def pruned() -> tuple[nn.Module, Network]:
    torch.manual_seed(0)
    module = prune_module(UNet(4), unet_graph(), random_keep(unet_graph())).eval()
    return module, deployable(export_module(module, torch.randn(1, 3, 128, 128)))


@pytest.fixture
def folder(tmp_path: Path, pruned: tuple[nn.Module, Network]) -> Path:
    save_folder(tmp_path / "saved", *pruned, random_keep(unet_graph()), ORIGIN)
    return tmp_path / "saved"


def image() -> torch.Tensor:
    return torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(5))


def output_hash(module: nn.Module) -> str:
    with torch.no_grad():
        return hashlib.sha256(module(image()).numpy().tobytes()).hexdigest()


def test_a_fresh_process_computes_the_same_bits(folder: Path, pruned: tuple[nn.Module, Network]) -> None:
    code = (
        "import torch; from pathlib import Path; from compress.model_folder import load_folder; "
        f"torch.set_num_threads({torch.get_num_threads()}); "  # sums are split among them
        "from tests.compress.test_model_folder import output_hash; "
        f"print(output_hash(load_folder(Path({str(folder)!r}))))"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == output_hash(pruned[0])


def test_a_module_with_channels_last_is_rebuilt_so(tmp_path: Path, pruned: tuple[nn.Module, Network]) -> None:
    module = prune_module(UNet(4), unet_graph(), random_keep(unet_graph()), prove=False).eval()
    module = module.to(memory_format=torch.channels_last)
    save_folder(tmp_path, module, pruned[1], {}, ORIGIN)
    assert output_hash(load_folder(tmp_path)) == output_hash(module)


def test_the_onnx_route_needs_no_class(folder: Path, pruned: tuple[nn.Module, Network]) -> None:
    network = load_network(folder)
    feeds = random_feeds(network)
    for one, two in zip(run(network.model, feeds).values(), run(pruned[1].model, feeds).values(), strict=True):
        assert np.array_equal(one, two)


def test_a_class_that_has_moved_leaves_the_onnx_route(tmp_path: Path, pruned: tuple[nn.Module, Network]) -> None:
    save_folder(tmp_path, *pruned, {}, Origin(factory="compress.models.gone:UNet"))
    with pytest.raises(BadInput, match=r"'compress.models.gone:UNet' is not here .* use load_network"):
        load_folder(tmp_path)
    assert load_network(tmp_path).outputs == pruned[1].outputs


def test_the_record_keeps_what_was_kept(folder: Path) -> None:
    record = read_record(folder)
    assert record.origin == ORIGIN
    assert record.keep == {name: indices.tolist() for name, indices in random_keep(unet_graph()).items()}
    assert set(record.versions) == {"espalier", "torch", "onnx"}


def test_no_pickle_is_written(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == [MODEL, RECIPE, WEIGHTS]
    assert all(not file.read_bytes().startswith((b"PK", b"\x80")) for file in folder.iterdir())


@pytest.mark.parametrize("name", [MODEL, WEIGHTS])
def test_a_changed_file_is_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    for load in (load_folder, load_network):
        with pytest.raises(BadInput, match=f"{name} was changed after it was saved"):
            load(folder)


def test_a_changed_recipe_is_refused(folder: Path) -> None:
    document = json.loads((folder / RECIPE).read_text())
    document["model"]["keep"]["down.0.conv"] = [0]
    (folder / RECIPE).write_text(json.dumps(document))
    with pytest.raises(BadInput, match=r"recipe.json was changed after it was saved"):
        load_folder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not the recipe of a espalier pruned model"),
        ({"schema": 4}, "has schema 4, this version reads up to 3; update the toolkit"),
        ({"model": {}}, "origin: Field required"),
        ({"model": None}, "save the model again"),
    ],
)
def test_a_foreign_recipe_is_refused(folder: Path, change: dict[str, object], message: str) -> None:
    document = json.loads((folder / RECIPE).read_text()) | change
    (folder / RECIPE).write_text(json.dumps(document))
    with pytest.raises(BadInput, match=message):
        load_network(folder)


def test_a_folder_without_a_recipe_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no recipe.json, so it is no saved model"):
        load_folder(tmp_path)


def test_a_recipe_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / RECIPE).write_text("{")
    with pytest.raises(BadInput, match="cannot be read as JSON"):
        load_folder(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(BadInput, match=r"cannot read .*weights.safetensors"):
        load_folder(folder)


def test_a_folder_may_not_call_just_anything(tmp_path: Path, pruned: tuple[nn.Module, Network]) -> None:
    save_folder(tmp_path, *pruned, {}, Origin(factory="os:system", arguments={"command": "touch called"}))
    with pytest.raises(BadInput, match=r"built by 'os:system'; pass trusted=\('os',\) if you trust it"):
        load_folder(tmp_path)
    save_folder(tmp_path, *pruned, {}, Origin(factory="compress.models_of_mine:x"))
    with pytest.raises(BadInput, match=r"built by 'compress.models_of_mine:x'"):
        load_folder(tmp_path)


def test_trusted_code_may_be_called(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 2))
    network = export_module(module, torch.randn(1, 3))
    save_folder(tmp_path, module, network, {}, Origin(factory="tests.compress.test_model_folder:small"))
    loaded = load_folder(tmp_path, trusted=("tests",))
    assert torch.equal(loaded[0].weight, module[0].weight)


def small(width: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width))


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("compress.models.unet:UNet", {"colour": 3}, "does not build the original"),
        ("compress.models.unet:UNet.__name__.upper", {}, "returned a str, not a torch module"),
        ("compress.models.patchgan:PatchGan", {}, "now builds another network"),
    ],
)
def test_an_origin_that_builds_something_else_is_refused(
    tmp_path: Path, pruned: tuple[nn.Module, Network], factory: str, arguments: dict[str, int], message: str
) -> None:
    save_folder(tmp_path, *pruned, {}, Origin(factory=factory, arguments=arguments))
    with pytest.raises(BadInput, match=message):
        load_folder(tmp_path)


def test_an_origin_must_be_importable_by_name() -> None:
    with pytest.raises(ValueError, match=r"must look like package.module:callable"):
        Origin(factory="net.py")


def test_arguments_must_be_json(tmp_path: Path, pruned: tuple[nn.Module, Network]) -> None:
    origin = Origin(factory="compress.models.unet:UNet", arguments={"width": float("nan")})
    with pytest.raises(BadInput, match="must be plain JSON values"):
        save_folder(tmp_path, *pruned, {}, origin)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_model(folder: Path, pruned: tuple[nn.Module, Network], monkeypatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("device_profiles.store.os.fsync", full)
    with pytest.raises(BadInput, match="No space left on device"):
        save_folder(folder, *pruned, {}, ORIGIN)
    with pytest.raises(BadInput, match=r"holds no recipe.json"):
        load_folder(folder)
