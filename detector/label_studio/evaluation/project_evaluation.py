"""Read the annotations and predictions of projects and of their JSON snapshots for an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from detector.datasets.omissions import Omissions
from detector.datasets.person import Size
from detector.errors import InvalidRequest
from detector.label_studio.labels.config import LabelingConfig, any_style, parse
from detector.label_studio.labels.regions import read_results
from detector.label_studio.labels.tasks import (
    Json,
    annotations_of,
    check_labels,
    file_of,
    id_of,
    keypoints_of,
    newest_annotation,
    persons_in,
    predictions_of,
    results_of,
    size_of,
    tasks_in_file,
)
from detector.label_studio.server.data_manager import ANNOTATED
from detector.label_studio.server.project import Project

from .agreement import Agreement, Labelled, agreement
from .evaluation import Evaluated, Evaluation, evaluate

_NOWHERE: Final = (1, 1)
"""Size of an image without any region."""
_UNKNOWN: Final = 'unknown'


class Annotated:
    """Annotated tasks of one or several projects, with the prediction of each model version.

    :ivar tasks: number of tasks with an annotation that was not skipped.
    :ivar warnings: faults of single tasks, each with the task's number.
    :ivar omissions: counts what is left out, and adds a line for it to the warnings.
    """

    def __init__(self) -> None:
        self.tasks = 0
        self.warnings: list[str] = []
        self.omissions = Omissions(self.warnings.append)
        self._images: dict[str, list[Evaluated]] = {}
        self._labelled: list[list[Labelled]] = []
        self._since: dict[str, str] = {}

    @property
    def versions(self) -> list[str]:
        """Versions with predictions on annotated tasks, in the order of their first predictions."""
        return sorted(self._images, key=lambda version: (self._since[version], version))

    def add(self, task: Json, config: LabelingConfig, *, address: str | None = None) -> None:
        """Add a task with its newest annotation, that of each annotator, and the newest prediction of each version.

        The image size comes from the annotations' regions, or else from a prediction's. Tasks without an annotation, or
        with skipped ones only, are ignored.

        :param task: with complete `annotations` and `predictions`, not only their numbers.
        :param address: address of the task's page.
        :raises InvalidRequest: the predictions are only listed by number.
        """
        annotation = newest_annotation(task)
        if annotation is None:
            return
        self.tasks += 1
        if not self.omissions.each('task', [(task,)], _check):
            return
        number, annotated = id_of(task), results_of(annotation)
        predictions, by_annotator = _newest_predictions(task), _by_annotator(task)
        regions = [annotated, *map(results_of, [*by_annotator.values(), *predictions.values()])]
        size = next((size for size in map(size_of, regions) if size is not None), None)
        if size is None and any(regions):
            self.omissions.add('task', f'task {number} is left out: no region states the size of its image')
            return
        reading = read_results(annotated, config, size or _NOWHERE)
        for phrase in reading.unread:
            self.omissions.add('fault in regions', f'task {number} has {phrase}')
        if reading.is_lost:
            self.omissions.add('task', f'task {number} is left out: none of its persons can be read')
            return
        name = f'{file_of(task, config)} (task {number})'.strip()
        people = persons_in(annotated, config, size or _NOWHERE)
        if len(by_annotator) > 1:
            self._labelled.append(
                [
                    Labelled(annotator=annotator, people=persons_in(results_of(found), config, size or _NOWHERE))
                    for annotator, found in by_annotator.items()
                ]
            )
        for version, prediction in predictions.items():
            self._warn(number, size, version, size_of(results_of(prediction)))
            predicted = persons_in(results_of(prediction), config, size or _NOWHERE)
            self._images.setdefault(version, []).append(
                Evaluated(name=name, people=people, predicted=predicted, model_version=version, address=address)
            )
            made = str(prediction.get('created_at') or '')
            self._since[version] = min(made, self._since.get(version, made))

    def _warn(self, number: int, size: Size | None, version: str, predicted: Size | None) -> None:
        if size is not None and predicted is not None and size != predicted:
            sizes = (' × '.join(map(str, sides)) for sides in (size, predicted))
            self.warnings.append(f'task {number}: its image has {next(sizes)} pixels, but {next(sizes)} for {version}')

    def agreement(self) -> Agreement | None:
        """Compare annotators with each other; None if no task has annotations of several of them."""
        return agreement(self._labelled)

    def evaluate(self, versions: Sequence[str] = ()) -> list[Evaluation]:
        """Measure versions, each on the tasks that it has predictions for, the oldest first.

        :param versions: versions to measure, in this order; empty: all.
        :raises InvalidRequest: there are no annotations or predictions, or a version is unknown.
        :raises ExtraMissing: the extra `evaluate` is not installed.
        """
        if not self.tasks:
            raise InvalidRequest('no task has an annotation: there is nothing to compare predictions with')
        if not self._images:
            raise InvalidRequest(f'none of the {self.tasks} annotated tasks has a usable prediction')
        for version in versions:
            if version not in self._images:
                raise InvalidRequest(
                    f'no annotated task has a prediction of {version!r}, only of {", ".join(self.versions)}'
                )
        return [evaluate(self._images[version]) for version in dict.fromkeys(versions or self.versions)]


def _check(task: Json) -> bool:
    """:raises InvalidRequest: the regions of an annotation or a prediction cannot be read."""
    check_labels(task, 'annotations')
    check_labels(task, 'predictions')
    return True


def _by_annotator(task: Json) -> dict[str, Json]:
    """Return the newest annotation of each annotator, skipped ones excepted."""
    found: dict[str, list[Json]] = {}
    for annotation in annotations_of(task):
        found.setdefault(annotator_of(annotation), []).append(annotation)
    newest = {annotator: newest_annotation({'annotations': several}) for annotator, several in found.items()}
    return {annotator: annotation for annotator, annotation in newest.items() if annotation is not None}


def annotator_of(annotation: Json) -> str:
    """Return an annotator's e-mail address or number in Label Studio; `unknown` if it is not stated."""
    user = annotation.get('completed_by')
    if isinstance(user, Mapping):  # projects can be configured to export the whole user
        return str(user.get('email') or user.get('id') or _UNKNOWN)
    # the API states the name as "First Last address, number"
    name, _, number = str(annotation.get('created_username') or '').strip().rpartition(', ')
    if name and number == str(user):
        return name.split()[-1]
    return _UNKNOWN if user is None else str(user)


def _newest_predictions(task: Json) -> dict[str, Json]:
    """:raises InvalidRequest: the predictions are only listed by number."""
    if any(isinstance(prediction, int) for prediction in task.get('predictions') or ()):
        raise InvalidRequest(
            f'task {id_of(task)}: the file lists its predictions by number only; export a snapshot with predictions '
            '(Export → Create New Snapshot → Include predictions), or name the project'
        )
    return {version: found[0] for version, found in predictions_of(task).items()}


async def read_project(project: Project, annotated: Annotated) -> None:
    """Add the annotated tasks of a project.

    :raises InvalidRequest: its labeling config offers no keypoints.
    :raises LabelStudioFault: see `Connection.request`.
    """
    config = with_keypoints(parse(await project.label_config()))
    async for task in project.tasks(full=True, filters=[ANNOTATED]):
        annotated.add(task, config, address=project.page(task=id_of(task)))


def read_snapshot(path: Path, annotated: Annotated, *, xml: str | None = None) -> None:
    """Add the annotated tasks of a JSON export of Label Studio to `annotated`.

    :param xml: the labeling config; None: the recommended ones of both styles with all parts.
    :raises InvalidRequest: the file cannot be read, is not an export, or lists its predictions by number only; or the
        labeling config offers no keypoints.
    """
    config = any_style() if xml is None else with_keypoints(parse(xml))
    for task in tasks_in_file(path, annotated.omissions):
        annotated.add(task, config)


def with_keypoints(config: LabelingConfig) -> LabelingConfig:
    """:raises InvalidRequest: the config offers boxes only."""
    if not keypoints_of(config).any():
        raise InvalidRequest('the labeling config offers boxes for persons, but no keypoints')
    return config
