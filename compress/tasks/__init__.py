"""Tasks: the data, the loss and the metric that a network is trained and judged by."""

from __future__ import annotations

# Name -> "package.module:Class"; strings, so that listing the names loads no torch.
TASKS: dict[str, str] = {
    "scenes": "compress.tasks.scene_translation:SceneTranslation",
    "paired": "compress.tasks.paired_translation:PairedTranslation",
    "unpaired": "compress.tasks.unpaired_translation:UnpairedTranslation",
    "classification": "compress.tasks.classification:Classification",
    "denoising": "compress.tasks.denoising:Denoising",
    "super-resolution": "compress.tasks.super_resolution:SuperResolution",
}
