"""Tasks as Label Studio's API and snapshots give them."""

from collections.abc import Mapping, Sequence
from typing import Any

from detector.datasets.person import Person, Size
from detector.label_studio.labels.config import LabelingConfig
from detector.label_studio.labels.regions import to_results

Json = dict[str, Any]


def make_task(
    number: int,
    config: LabelingConfig,
    *,
    people: Sequence[Person] | None = None,
    predicted: Mapping[str, Sequence[Person]] | None = None,
    size: Size = (1000, 800),
) -> Json:
    """Make a task with at most one annotation and a prediction of each version, all an hour apart.

    :param people: annotated persons; None: no annotation.
    :param predicted: predicted persons by model version.
    """
    annotations = [] if people is None else [make_annotation(10 * number, to_results(people, config, size))]
    return {
        'id': number,
        'data': {'image': f'/data/upload/1/01234567-image{number}.jpg'},
        'annotations': annotations,
        'predictions': [
            {
                'id': 10 * number + index,
                'model_version': version,
                'score': 0.5,
                'result': to_results(persons, config, size),
                'created_at': f'2026-11-20T{index:02}:00:00.000000Z',
            }
            for index, (version, persons) in enumerate((predicted or {}).items(), start=1)
        ],
    }


def make_annotation(number: int, result: list[Json], *, was_cancelled: bool = False, hour: int = 12) -> Json:
    """:param hour: time of the last change."""
    changed = f'2026-11-20T{hour:02}:00:00.000000Z'
    return {'id': number, 'was_cancelled': was_cancelled, 'result': result, 'updated_at': changed}
