"""What the command line says in place of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Overrides:
    """What the command line says in place of the recipe; None and False leave the recipe's own.

    Attributes:
        data: Where the task's data lie: task.folder.
        speedup: Replaces speedup and budget_ms.
        budget_ms: Replaces speedup and budget_ms.
        sweep: Replaces the budgets of [sweep]: its speedups or its budgets_ms.
        per_target: Asks for a network for each target, too.
        retrain: Asks for the found widths trained from new weights, too.
    """

    data: Path | None = None
    speedup: float | None = None
    budget_ms: Mapping[str, float] | None = None
    sweep: Mapping[str, Any] | None = None
    per_target: bool = False
    retrain: bool = False

    def apply(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return a recipe's content with these in place."""
        if self.data is not None and isinstance(content.get("task"), dict):
            content = content | {"task": content["task"] | {"folder": str(self.data)}}
        if self.speedup is not None or self.budget_ms:
            content = {key: value for key, value in content.items() if key not in ("speedup", "budget_ms")}
            content |= {"speedup": self.speedup} if self.speedup is not None else {}
            content |= {"budget_ms": dict(self.budget_ms)} if self.budget_ms else {}
            goals = content.get("goals")
            if isinstance(goals, dict):  # the recipe's promise was about the recipe's own speedup
                content["goals"] = {key: value for key, value in goals.items() if key != "speedup"}
        if self.sweep:
            own = content.get("sweep")
            kept = {"condense": own["condense"]} if isinstance(own, dict) and "condense" in own else {}
            content = content | {"sweep": kept | dict(self.sweep)}
        asked = {"networks": "one per target"} if self.per_target else {}
        return content | asked | ({"retrain": True} if self.retrain else {})
