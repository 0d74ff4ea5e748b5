"""Tasks for the review queue."""

from collections.abc import Sequence

from detector.datasets.person import Person
from detector.label_studio.labels.config import LabelingConfig, generate, parse
from detector.label_studio.workflows.review_queue import Waiting
from tests.support.label_studio.evaluated import SIZE
from tests.support.label_studio.tasks import Json, make_task

VERSION = 'm 1.0'


KEYPOINTS = parse(generate('keypoints'))


SKELETON = parse(generate('skeleton'))


def make_waiting(
    tasks: Sequence[Json], *, config: LabelingConfig = SKELETON, parts: Sequence[str] = (), version: str = VERSION
) -> Waiting:
    waiting = Waiting(config=config, model_version=version, parts=parts)
    for task in tasks:
        waiting.add(task)
    return waiting


def predicted(number: int, *persons: Person, config: LabelingConfig = SKELETON) -> Json:
    return make_task(number, config, predicted={VERSION: persons}, size=SIZE)
