"""The labels of a task: the annotation or prediction that counts, file name, image size, and unusable regions.

A task's `meta` keeps what a dataset says about an image as `{"wholebody": {"image": {…}}}`, with `id`, `file_name`,
`width`, `height`, and the `extra` of a `LabelledImage`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from detector.datasets.labelled_image import IMAGE_FIELDS, LabelledImage, fields_of
from detector.datasets.person import Size
from detector.errors import InvalidRequest
from detector.wording import counted

from .config import LabelingConfig
from .regions import kind_of
from .tasks import address_of, check_labels, made_name, name_in, newest_annotation, newest_prediction, size_of
from .values import Region, size_in

Json = dict[str, Any]

_META: Final = 'wholebody'
_OUTSIDE_PERCENT: Final = 1.0
"""Distance outside the image in percent beyond which a point is not a rounding error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Selects which labels of a task are used.

    :param predictions: True to use the model's predictions instead of annotations.
    :param model_version: model version of the predictions.
    """

    predictions: bool = False
    model_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLabels:
    """A task and the regions that count.

    :param address: address of the image in the task's data; None if it has none.
    :param uploaded: name of the file before its upload, if `wholebody labelstudio import` noted it.
    :param results: None if the image is not labelled; empty if the annotator found no person in it.
    :param origin: task, project, data, annotation and so on, for the JSON format and for the Learning Loop.
    :param kept: fields of the dataset about the image, noted at its import.
    """

    task_id: int
    address: str | None
    uploaded: str | None
    results: Sequence[Region] | None
    origin: Mapping[str, Any]
    kept: Mapping[str, Any]

    @property
    def known_size(self) -> Size | None:
        """Size of the image according to the imported dataset or the regions."""
        return size_in(self.kept, 'width', 'height') or size_of(self.results or ())

    @property
    def file_name(self) -> str | None:
        """File name from the imported dataset, from before the upload, or from the address, in this order.

        An address without a name gets one of the task's number; None if the task has no address.
        """
        name, found = self.kept.get('file_name'), name_in(self.address)
        if isinstance(name, str) and name.strip():
            return name
        if self.address is not None and found is None:
            return self.uploaded or made_name(self.task_id, self.address)
        # Label Studio changes names of uploads; other addresses have folders, which the noted name lacks
        return self.uploaded if self.uploaded and found and '/' not in found else found


def read_task(task: Mapping[str, Any], config: LabelingConfig, choice: Choice) -> TaskLabels:
    """Read the labels of a task.

    :param task: with complete annotations and predictions, as in the API or a JSON export.
    :raises InvalidRequest: the task has no id, or one of its annotations or predictions has no list of regions.
    """
    task_id = task.get('id')
    if type(task_id) is not int:
        raise InvalidRequest(f'a task has no id, but {str(task_id)[:40]!r}')
    kind = 'predictions' if choice.predictions else 'annotations'
    check_labels(task, kind)
    address = address_of(task, config.image_key)
    labels = newest_prediction(task, choice.model_version) if choice.predictions else newest_annotation(task)
    origin = {'task': task_id, 'project': task.get('project'), 'data': task.get('data')}
    if labels is not None and choice.predictions:
        origin |= {'prediction': labels.get('id'), 'model_version': labels.get('model_version')}
    elif labels is not None:
        version = labels.get('updated_at') or labels.get('created_at')
        annotator = labels.get('completed_by')
        # projects can be configured to export the whole user
        annotator = annotator.get('id') if isinstance(annotator, Mapping) else annotator
        origin |= {'annotation': labels.get('id'), 'annotator': annotator, 'updated_at': version}
    return TaskLabels(
        task_id=task_id,
        address=address if isinstance(address, str) and address else None,
        uploaded=noted_name(task.get('meta')),
        results=None if labels is None else [region for region in labels['result'] if isinstance(region, dict)],
        origin=origin,
        kept=kept_of(task.get('meta')),
    )


def kept_of(meta: object) -> Mapping[str, Any]:
    """Return the fields of a dataset about an image that a task's `meta` keeps."""
    own = meta.get(_META) if isinstance(meta, Mapping) else None
    image = own.get('image') if isinstance(own, Mapping) else None
    return image if isinstance(image, Mapping) else {}


def noted_name(meta: object) -> str | None:
    """Return the file name that `wholebody labelstudio import` noted in a task's `meta`."""
    name = meta.get('file') if isinstance(meta, Mapping) else None
    return name if isinstance(name, str) and name.strip() else None


def with_kept(meta: object, image: LabelledImage) -> Json:
    """Return a task's `meta` extended by the fields of a dataset about its image."""
    before = dict(meta) if isinstance(meta, Mapping) else {}
    own = before.get(_META)
    kept = dict(image.extra) | fields_of(image)
    return before | {_META: (dict(own) if isinstance(own, Mapping) else {}) | {'image': kept}}


def extra_of(kept: Mapping[str, Any]) -> Json:
    """Return the `extra` of a kept image."""
    return {name: value for name, value in kept.items() if name not in IMAGE_FIELDS}


def usable(results: Sequence[Region], config: LabelingConfig) -> tuple[list[Region], list[str]]:
    """Separate the regions that describe poses from others and from those outside the image.

    :return: the regions, without points outside the image, and one line per kind of other region.
    """
    good: list[Region] = []
    odd: Counter[str] = Counter()
    for region in results:
        value = region.get('value')
        if not isinstance(value, Mapping):
            odd.update([] if region.get('type') == 'relation' else ['a region without a value'])
            continue
        kind = kind_of(region, config)
        if kind == 'skeleton':
            vertices, outside = _inside(value.get('vertices'))
            odd.update([f'a skeleton with {counted(outside, "point")} outside the image'] if outside else [])
            good.append(region | {'value': {**value, 'vertices': vertices}})
        elif kind is None:
            odd[f'a region that is not a person, box or keypoint ({_shown(region)})'] += 1
        elif kind != 'choice' and _is_outside(value):
            odd[f'a region outside the image ({_shown(region)})'] += 1
        else:
            good.append(region)
    return good, [f'{complaint}{f", {count} times" if count > 1 else ""}' for complaint, count in odd.items()]


def _inside(vertices: object) -> tuple[object, int]:
    """Return the vertices inside the image, and the number of others."""
    if not isinstance(vertices, list):
        return vertices, 0
    inside = [vertex for vertex in vertices if not isinstance(vertex, Mapping) or not _is_outside(vertex)]
    return inside, len(vertices) - len(inside)


def _is_outside(value: Mapping[str, Any]) -> bool:
    """Return True if a point or box lies wholly outside the image."""
    for start, side in (('x', 'width'), ('y', 'height')):
        low = value.get(start)
        length = value.get(side) if 'rectanglelabels' in value else 0
        if not isinstance(low, int | float) or not isinstance(length, int | float):
            return False  # the reader of the region decides about it
        if low > 100 + _OUTSIDE_PERCENT or low + length < -_OUTSIDE_PERCENT:
            return True
    return False


def _shown(region: Region) -> str:
    value = region['value']
    labels = [label for key in value if key.endswith('labels') and isinstance(value[key], list) for label in value[key]]
    return ', '.join(map(str, labels))[:60] or str(region.get('from_name'))[:60]
