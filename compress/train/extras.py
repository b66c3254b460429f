"""What is added to plain training: a method's penalty and its steps, a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from compress.tasks.base import Batch


@dataclass(frozen=True)
class Teacher:
    """A network whose outputs the student should also match.

    The distance is the task's `distillation` where it is `Teachable`, else its loss; it is added times `weight`.
    """

    module: nn.Module
    weight: float


@dataclass(frozen=True)
class Extras:
    """What a method adds to plain training.

    Attributes:
        penalty: Called once a step with the batch and the network's outputs; its value is added to the loss.
        after_step: Called with the number of steps done and the learning rate of the last one.
        finished: Asked after each step whether the run may end before its last one.
        modules: Trained or kept beside the network, so that a checkpoint holds them: gates, auxiliary heads. Their
            parameters are trained where `parameter_groups` lists them.
        parameter_groups: The optimizer's groups where learning rates differ; each group's "lr" is a factor.
        state: What `after_step` changes and a resumed run needs back: read and written by name.
        teacher: For distillation.
    """

    penalty: Callable[[Batch, Tensor], Tensor] | None = None
    after_step: Callable[[int, float], None] | None = None
    finished: Callable[[], bool] | None = None
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    parameter_groups: list[dict[str, object]] | None = None
    state: dict[str, float] | None = None
    teacher: Teacher | None = None
