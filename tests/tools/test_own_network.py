"""The page about one's own network, run as it stands: code, pictures and a recipe outside the repository."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_network.md").read_text("utf-8")


def block(language: str, which: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[which]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Lay the page's files out; with fewer steps, and measured for a shorter time."""
    folder = tmp_path_factory.mktemp("somewhere else")
    (folder / "deblur.py").write_text(block("python"))
    shorter = re.sub(r"steps = \d+", "steps = 60", block("toml")).replace(
        "speedup = 2.0", "speedup = 1.5\nprofile_seconds = 1\nmeasure_seconds = 1"
    )
    (folder / "deblur.toml").write_text(shorter)
    (folder / "pictures").mkdir()
    for name in ("camera", "coins", "moon"):
        Image.fromarray(getattr(data, name)()[:256, :256]).save(folder / "pictures" / f"{name}.png")
    return folder


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "tools" / "compress_model.py")
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=folder)


def test_the_pages_example_is_compressed_by_the_pages_command(folder):
    (line,) = block("bash").splitlines()
    finished = call(folder, *line.split()[2:])
    assert finished.returncode in (0, 3), finished.stderr  # so few steps may miss a goal
    summary = json.loads((folder / "runs" / "deblur" / "summary.json").read_text())
    assert summary["parameters"]["pruned"] < summary["parameters"]["baseline"]
    assert summary["proof_passed"]
    assert summary["quality"]["unit"] == "dB"
    assert (folder / "runs" / "deblur" / "model.onnx").exists()
    assert "<img" not in (folder / "runs" / "deblur" / "report.html").read_text()  # a task without pictures has none


def test_the_result_is_loaded_in_torch_as_the_page_says(folder):
    code = block("python", 1) + "print(sum(each.numel() for each in module.parameters()))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    summary = json.loads((folder / "runs" / "deblur" / "summary.json").read_text())
    assert int(loaded.stdout) == summary["parameters"]["pruned"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"deblur:Deblur"', '"deblur:Blur"', "deblur has no callable 'Blur'"),
        ('folder = "pictures"', 'folde = "pictures"', "unknown key 'task.folde'; allowed here: folder, size"),
        ('folder = "pictures"', "", "the key 'task.folder' is missing; add it"),
        ('folder = "pictures"', 'folder = "pictures"\nsize = "small"', "task.size (='small')"),
        ('"deblur:network"', '"deblur:blur"', "unknown key 'model.width'; allowed here: pictures"),
        ("width = 32", 'width = 32\nweights = "none.safetensors"', "there is no such file"),
    ],
)
def test_a_wrong_recipe_of_ones_own_is_refused_in_one_line(folder, tmp_path, old, new, message):
    text = (folder / "deblur.toml").read_text()
    assert old in text
    (tmp_path / "deblur.py").write_text((folder / "deblur.py").read_text())
    (tmp_path / "pictures").symlink_to(folder / "pictures")
    (tmp_path / "deblur.toml").write_text(text.replace(old, new, 1))
    refused = call(tmp_path, "deblur.toml")
    assert refused.returncode == 2, refused.stderr
    assert message in refused.stderr
    assert len([line for line in refused.stderr.splitlines() if line.startswith("error")]) == 1
