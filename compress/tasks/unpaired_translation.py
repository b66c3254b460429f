"""Unpaired image translation, as in CycleGAN (Zhu et al., 2017, arXiv 1703.10593)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from compress.arguments import check_arguments, find_callable
from compress.models import MODELS
from compress.report.results import Metric
from compress.tasks.base import Batch
from compress.tasks.colours import ColourMatch, percent_error, show
from compress.tasks.cycle import Cycle, CycleWeights
from compress.tasks.draws import shuffled, step_generator
from compress.tasks.frechet import FrechetDistance
from compress.tasks.pictures import Picture, Pictures, find_folder, list_pictures, names_of
from compress.tasks.scenes import draw_days_and_nights
from compress.tasks.settings import check_settings_
from compress.tasks.translation_folders import enlarged_size, random_crop, read_square, to_signed

MATCHED_IMAGES = 64  # whose colours are matched for the answer that needs no learning
SCENES = 512  # of each kind to train on, where there is no folder and no number is given


@dataclass(kw_only=True)
class UnpairedTranslation:
    """Translate images of kind A to kind B, without a single pair to learn from; images are numbers from -1 to 1.

    The loss is that of CycleGAN and comes from its companions alone. Images of a folder are judged by the Frechet
    distance between what the network makes and real images of kind B; drawn scenes by the error to the true
    translation.

    Args:
        folder: Holds trainA, trainB, testA and testB; without it, A are drawn scenes by day and B others by night.
        direction: "BtoA" exchanges the two kinds.
        size: Pixels a side.
        mirror: Whether the training images of a folder may be mirrored.
        train_pictures: How many images of each kind to train on at most; 0 is all, or 512 scenes.
        held_out_pictures: How many images of each kind to judge by at most.
        inverse: The network that translates back: a bundled one, or package.module:callable.
        inverse_arguments: What to change of its arguments.
        discriminator_width: Channels of the first layer of both discriminators.
        companion_rate: Learning rate of the inverse network and the discriminators; as published by default.
        inception: The file with the Inception weights; with it, images of a folder are judged by the FID.
        seed: The order in which images are seen; which scenes are drawn.

    Raises:
        BadInput: A setting or a file is wrong.
        RuntimeUnavailable: There is a file for `inception` but torch-fidelity is not installed.
    """

    folder: Path | None = None
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    size: Annotated[int, Field(ge=16)] = 128
    mirror: bool = True
    train_pictures: Annotated[int, Field(ge=0)] = 0
    held_out_pictures: Annotated[int, Field(ge=2)] = 128
    inverse: str = "unet-16"
    inverse_arguments: dict[str, Any] = field(default_factory=dict)
    discriminator_width: Annotated[int, Field(gt=0)] = 64
    companion_rate: Annotated[float, Field(gt=0)] = 2e-4
    inception: Path | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    trivial_name: ClassVar[str] = "the input in the other kind's mean colours"

    def __post_init__(self) -> None:
        check_settings_(self)
        self._make_inverse = _factory(self.inverse, self.inverse_arguments)
        if self.folder is None:
            self.metric = Metric("mean absolute error", "% of the range", higher_is_better=False)
            self._read_scenes_()
        else:
            self._distance = FrechetDistance(self.inception)
            self.metric = self._distance.metric
            self._read_folder_(self.folder)
        self._match = ColourMatch(self._some(self._a), self._some(self._b))

    def batch(self, step: int, size: int) -> Batch:
        """Return `size` images of each kind, drawn independently, the same ones for the same step."""
        generator = step_generator(self.seed, step)
        draws = [torch.randint(0, len(kind), (size,), generator=generator).tolist() for kind in (self._a, self._b)]
        a, b = (self._cropped(kind, chosen, generator) for kind, chosen in zip((self._a, self._b), draws, strict=True))
        names = zip(names_of(self._a, draws[0]), names_of(self._b, draws[1]), strict=True)
        return Batch(a, b, tuple(f"{one} and {two}" for one, two in names))

    def held_out(self) -> Batch:
        """Return the held-out images of kind A, and their true translations or, from a folder, others of kind B."""
        return self._held_out

    def loss(self, outputs: Float[Tensor, "n 3 h w"], targets: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return nothing: an output has no target of its own. The companions' loss is all there is."""
        return 0.0 * outputs.mean()

    def distillation(self, outputs: Float[Tensor, "n 3 h w"], taught: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
        """Return the mean absolute difference."""
        return functional.l1_loss(outputs, taught)

    def quality(self, outputs: Float[Tensor, "n 3 h w"], targets: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """Return each image's error in percent of the range; for a folder, the set's one Frechet distance."""
        return percent_error(outputs, targets) if self.folder is None else self._distance(outputs, targets)[None]

    def trivial(self, inputs: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Give the images the mean and the deviation that the colours of kind B have."""
        return self._match(inputs)

    def picture(self, values: Float[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 h w"]:
        """Return the images in 8 bits."""
        return show(values)

    def companions(self) -> Cycle:
        """Make an inverse generator and two discriminators."""
        return Cycle(self._make_inverse(), CycleWeights(), self.discriminator_width, self.companion_rate)

    def _cropped(
        self, kind: Sequence[Picture], chosen: Sequence[int], generator: Generator
    ) -> Float[Tensor, "n 3 h w"]:
        images = [kind[index] for index in chosen]
        if self.folder is not None:
            images = [random_crop(each.shape[-1], self.size, generator, mirror=self.mirror)(each) for each in images]
        return to_signed(images)

    def _some(self, kind: Sequence[Picture]) -> Float[Tensor, "n 3 h w"]:
        return to_signed([kind[index] for index in shuffled(len(kind), MATCHED_IMAGES)])

    def _read_scenes_(self) -> None:
        """Draw scenes to be seen by day, others to be seen by night, and a third set to be judged by in both."""
        count = self.train_pictures or SCENES
        self._a, _ = draw_days_and_nights(count, size=self.size, seed=3 * self.seed + 1)
        _, self._b = draw_days_and_nights(count, size=self.size, seed=3 * self.seed + 2)
        a, b = draw_days_and_nights(self.held_out_pictures, size=self.size, seed=3 * self.seed + 3)
        if self.direction == "BtoA":
            self._a, self._b, a, b = self._b, self._a, b, a
        self._held_out = Batch(to_signed(list(a)), to_signed(list(b)))
        self.description = "drawn scenes, unpaired: " + ("day to night" if self.direction == "AtoB" else "night to day")

    def _read_folder_(self, folder: Path) -> None:
        a, b = ("A", "B") if self.direction == "AtoB" else ("B", "A")
        enlarged = enlarged_size(self.size)
        self._a = _read(folder, f"train{a}", enlarged, self.train_pictures)
        self._b = _read(folder, f"train{b}", enlarged, self.train_pictures)
        judged_a = _read(folder, f"test{a}", self.size, self.held_out_pictures)
        judged_b = _read(folder, f"test{b}", self.size, self.held_out_pictures)
        count = min(len(judged_a), len(judged_b))
        judged = [to_signed([kind[index] for index in range(count)]) for kind in (judged_a, judged_b)]
        self._held_out = Batch(*judged, judged_a.names[:count])
        self.description = f"unpaired images in {folder.name}, {self.direction}"


def _read(folder: Path, name: str, size: int, most: int) -> Pictures[Picture]:
    paths = list_pictures(find_folder(folder, (name,)))
    return Pictures([paths[index] for index in shuffled(len(paths), most)], partial(read_square, size=size))


def _factory(name: str, changed: Mapping[str, Any]) -> partial[Any]:
    factory = find_callable(name, {each: model.factory for each, model in MODELS.items()}, "task.inverse")
    arguments = {**(MODELS[name].arguments if name in MODELS else {}), **changed}
    return partial(factory, **check_arguments(factory, arguments, "task.inverse_arguments"))
