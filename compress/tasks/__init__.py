"""Tasks: the data, the loss and the metric that a network is trained and judged by.

`TASKS` names the class of each, as strings, so that listing them loads nothing.
"""

from __future__ import annotations

TASKS: dict[str, str] = {
    "scenes": "compress.tasks.scene_translation:SceneTranslation",
}
