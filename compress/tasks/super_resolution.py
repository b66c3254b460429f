"""Super-resolution, as for EDSR (Lim et al., 2017, arXiv 1707.02921): L1 loss, judged by PSNR or SSIM on Y.

Both measures are taken as published: on the luma of the 8-bit picture, without a border of `scale` pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from compress.report.results import Metric
from compress.tasks.base import Batch
from compress.tasks.draws import shuffled, step_generator
from compress.tasks.fidelity import levels, luma, psnr, ssim, without_border
from compress.tasks.patches import Place, cut, find_folders, fixed_places, random_places
from compress.tasks.photographs import held_out_photographs, training_photographs
from compress.tasks.pictures import Picture, Pictures, list_pictures, names_of, read_picture, to_bytes, to_unit
from compress.tasks.resample import enlarge, shrink
from compress.tasks.settings import check_settings_
from device_profiles.errors import BadInput

MEASURES = {"PSNR": psnr, "SSIM": ssim}
METRICS = {
    "PSNR": Metric("PSNR on Y", "dB", higher_is_better=True),
    "SSIM": Metric("SSIM on Y", "", higher_is_better=True),
}

Pair = tuple[Picture, Picture]  # low and high resolution


@dataclass(kw_only=True)
class SuperResolution:
    """Enlarge a colour picture `scale` times; pictures are numbers from 0 to 1.

    Args:
        folder: Holds DIV2K_train_HR and DIV2K_valid_HR, or train/ and val/ or test/; without it, scikit-image's
            photographs.
        held_out_folder: High-resolution pictures to judge by that lie elsewhere, Set5; `folder` then holds those to
            train on itself.
        low: "bicubic" shrinks the pictures; "given" reads DIV2K_train_LR_bicubic/X4/0001x4.png beside
            DIV2K_train_HR/0001.png, and likewise for other folders whose names end in _HR.
        scale: How many times larger.
        size: Pixels a side of the high-resolution patches to train on; each is turned and mirrored at random.
        held_out_size: Pixels a side of the patches to judge by; `wholes` gives the pictures whole.
        held_out_patches: How many patches to judge by.
        train_pictures: How many files to train on at most; 0 is all.
        measure: What to judge by.
        seed: The order in which patches are seen.

    Raises:
        BadInput: A setting or a file is wrong.
    """

    folder: Path | None = None
    held_out_folder: Path | None = None
    low: Literal["bicubic", "given"] = "bicubic"
    scale: Annotated[int, Field(ge=2, le=8)] = 4
    size: Annotated[int, Field(ge=16)] = 96
    held_out_size: Annotated[int, Field(ge=32)] = 192
    held_out_patches: Annotated[int, Field(gt=0)] = 16
    train_pictures: Annotated[int, Field(ge=0)] = 0
    measure: Literal["PSNR", "SSIM"] = "PSNR"
    seed: Annotated[int, Field(ge=0)] = 0

    trivial_name = "bicubic upscaling"

    def __post_init__(self) -> None:
        check_settings_(self)
        for name in ("size", "held_out_size"):
            if getattr(self, name) % self.scale:
                raise BadInput(
                    f"{name} (={getattr(self, name)}) must be a multiple of scale (={self.scale}); change one"
                )
        self.metric = METRICS[self.measure]
        source = self.folder.name if self.folder else "scikit-image"
        self.description = f"super-resolution x{self.scale} of photographs ({source})"
        self._train, self._judged = self._read()
        self._held_out = self._cut(
            self._judged, fixed_places(len(self._judged), self.held_out_patches), self.held_out_size
        )

    def batch(self, step: int, size: int) -> Batch:
        """Return `size` random patches, the same ones for the same step."""
        places = random_places(len(self._train), size, step_generator(self.seed, step))
        return self._cut(self._train, places, self.size)

    def held_out(self) -> Batch:
        """Return patches of the held-out pictures, always the same."""
        return self._held_out

    def wholes(self) -> Iterator[Batch]:
        """Return each held-out picture whole, a batch of one, for numbers that compare with published ones."""
        for number in range(len(self._judged)):
            low, high = self._judged[number]
            yield Batch(to_unit(low[None]), to_unit(high[None]))

    def loss(self, outputs: Float[Tensor, "n 3 h w"], targets: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
        """Return the mean absolute difference."""
        return functional.l1_loss(outputs, targets)

    def quality(self, outputs: Float[Tensor, "n 3 h w"], targets: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """Return each picture's PSNR, dB, or SSIM, on the luma of 8 bits, without the border."""
        restored, true = (without_border(luma(levels(each)), self.scale) for each in (outputs, targets))
        return MEASURES[self.measure](restored, true)

    def trivial(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h*s w*s"]:
        """Enlarge by bicubic interpolation."""
        return enlarge(inputs, self.scale)

    def picture(self, values: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
        """Return the pictures in 8 bits."""
        return to_bytes(values)

    def _read(self) -> tuple[Sequence[Pair], Sequence[Pair]]:
        """Return the pairs to train on and those to judge by."""
        if self.folder is None:
            if self.low == "given":
                raise BadInput("low (='given') needs a folder with low-resolution pictures; add folder, or drop low")
            train, judged = training_photographs(3), held_out_photographs(3)
            return [self._pair(each) for each in train], [self._pair(each) for each in judged]
        found = find_folders(self.folder, self.held_out_folder)
        paths = list_pictures(found.train)
        train_paths = [paths[index] for index in sorted(shuffled(len(paths), self.train_pictures))]
        return (
            Pictures(train_paths, self._decode, self.size),
            Pictures(list_pictures(found.held_out), self._decode, self.held_out_size),
        )

    def _decode(self, path: Path) -> Pair:
        if self.low == "bicubic":
            return self._pair(read_picture(path))
        beside = _beside(path, self.scale)
        low, high = read_picture(beside), read_picture(path)
        height, width = low.shape[1] * self.scale, low.shape[2] * self.scale
        if not (0 <= high.shape[1] - height < self.scale and 0 <= high.shape[2] - width < self.scale):
            raise BadInput(
                f"the picture {beside} is {low.shape[2]} x {low.shape[1]} pixels and {path} is {high.shape[2]} x "
                f"{high.shape[1]}, which is not {self.scale} times as large; replace one"
            )
        return low, high[:, :height, :width].contiguous()

    def _pair(self, high: Picture) -> Pair:
        low = shrink(high, self.scale)
        return low, high[:, : low.shape[1] * self.scale, : low.shape[2] * self.scale].contiguous()

    def _cut(self, pairs: Sequence[Pair], places: Sequence[Place], size: int) -> Batch:
        chosen = [(pairs[place.picture], place) for place in places]
        low = [cut(low, place, size // self.scale) for (low, _), place in chosen]
        high = [cut(high, place, size, self.scale) for (_, high), place in chosen]
        names = names_of(pairs, [place.picture for place in places])
        return Batch(to_unit(torch.stack(low)), to_unit(torch.stack(high)), names)


def _beside(path: Path, scale: int) -> Path:
    """Return the low-resolution file of a high-resolution one, as DIV2K names it."""
    folder = path.parent
    if not folder.name.endswith("_HR"):
        raise BadInput(f"low (='given') needs folders named like DIV2K_train_HR, not {folder}; rename it, or drop low")
    low = folder.with_name(folder.name.removesuffix("_HR") + "_LR_bicubic") / f"X{scale}"
    found = low / f"{path.stem}x{scale}{path.suffix}"
    if not found.exists():
        raise BadInput(f"there is no low-resolution picture {found} for {path}; unpack it there, or drop low")
    return found
