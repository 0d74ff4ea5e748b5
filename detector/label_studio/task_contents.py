"""What tasks hold, as Label Studio's API and its JSON snapshots give them: annotations and predictions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..skeleton import KEYPOINT_COUNT
from .config import LabelingConfig
from .labelled_tasks import name_in
from .person import NOT_LABELLED, Person, Size
from .regions import from_results

Json = Mapping[str, Any]

WITHOUT_VERSION: Final = 'undefined'
"""How Label Studio calls the version of a prediction that has none."""


def id_of(item: Json) -> int:
    """Of a task, a prediction, an annotation; 0: it has none."""
    number = item.get('id')
    return number if isinstance(number, int) else 0


def file_of(task: Json, config: LabelingConfig) -> str:
    """The name of the task's image file without folders; empty if its address has none."""
    data = task.get('data')
    name = name_in(data.get(config.image_key)) if isinstance(data, Mapping) else None
    return (name or '').rpartition('/')[2]


def annotations_of(task: Json) -> list[Json]:
    """All annotations, also where somebody skipped the task."""
    return _objects(task.get('annotations'))


def predictions_of(task: Json) -> dict[str, list[Json]]:
    """By model version, the newest first."""
    found: dict[str, list[Json]] = {}
    for prediction in sorted(_objects(task.get('predictions')), key=id_of, reverse=True):
        found.setdefault(str(prediction.get('model_version') or WITHOUT_VERSION), []).append(prediction)
    return found


def results_of(item: Json) -> list[Json]:
    """The regions of an annotation or a prediction."""
    return _objects(item.get('result'))


def size_of(results: Iterable[Json]) -> Size | None:
    """Of the image, as the first region says that says it."""
    for region in results:
        sides = region.get('original_width'), region.get('original_height')
        if all(isinstance(side, int) and side > 0 for side in sides):
            return sides  # type: ignore[return-value]
    return None


def keypoints_of(config: LabelingConfig) -> NDArray[np.bool_]:
    """Which keypoints a labeling config offers, shape (133,)."""
    offered = np.zeros(KEYPOINT_COUNT, dtype=np.bool_)
    if config.points is not None:
        offered[list(config.points.labels)] = True
    for indices in () if config.skeletons is None else config.skeletons.labels.values():
        offered[list(indices)] = True
    return offered


def persons_in(results: Sequence[Json], config: LabelingConfig, size: Size) -> list[Person]:
    """The persons of an annotation or a prediction, with no keypoints but those that the config offers.

    :param size: of the image in pixels.
    """
    offered = keypoints_of(config)
    persons = [
        replace(person, visibility=np.where(offered, person.visibility, NOT_LABELLED).astype(np.int8))
        for person in from_results(results, config, size)
    ]
    return [person for person in persons if person.box is not None or person.visibility.any()]


def _objects(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
