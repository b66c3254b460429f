"""Starting weights as the papers of the networks draw them; norms keep torch's scale of one and offset of zero."""

from __future__ import annotations

from torch import nn

GAN_STD = 0.02  # pix2pix and CycleGAN, after DCGAN (Radford et al., 2015, arXiv 1511.06434)
CLASSIFIER_STD = 0.01  # MobileNetV2 and VGG as torchvision trains them


def he_(module: nn.Module) -> None:
    """Draw the weights of all convolutions from N(0, 2 / outputs a weight has), in place; their biases are zero.

    Source:
        He et al., 2015, arXiv 1502.01852, equation 14.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def classifier_(module: nn.Module) -> None:
    """Draw the weights of all linear layers from N(0, 0.01), in place; their biases are zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=CLASSIFIER_STD)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def gan_(module: nn.Module) -> None:
    """Draw weights of convolutions from N(0, 0.02) and scales of norms from N(1, 0.02), in place; biases are zero."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(part.weight, std=GAN_STD)
        elif isinstance(part, nn.BatchNorm2d | nn.InstanceNorm2d) and part.affine:
            nn.init.normal_(part.weight, mean=1.0, std=GAN_STD)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)
