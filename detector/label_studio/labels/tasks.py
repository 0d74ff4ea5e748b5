"""Tasks as Label Studio's API and JSON exports give them: annotations, predictions, file names, image sizes."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from detector.datasets.fields import as_list, as_mapping, read_json
from detector.datasets.omissions import Omissions
from detector.datasets.person import NOT_LABELLED, Person, Size
from detector.errors import InvalidRequest
from detector.pose.skeleton import KEYPOINT_COUNT

from .config import LabelingConfig
from .regions import from_results
from .values import size_in

Json = Mapping[str, Any]

_TASK_FIELDS: Final = frozenset(('data', 'annotations'))
WITHOUT_VERSION: Final = 'undefined'
"""Label Studio's name for the version of a prediction without one."""
_UPLOADED: Final = re.compile(r'[0-9a-f]{8}-(?=.)')
"""Prefix that Label Studio adds to the name of an uploaded file."""
_IMAGE_KIND: Final = re.compile(r'data:image/(?P<kind>jpe?g|png|webp)\b', re.IGNORECASE)


def tasks_in_file(path: Path, omissions: Omissions) -> list[Json]:
    """Read the tasks of a JSON export of Label Studio.

    :param omissions: receives entries that are not tasks.
    :raises InvalidRequest: the file cannot be read, or none of its entries is a task.
    """
    entries = as_list(read_json(path), str(path))
    if entries and not any(isinstance(entry, Mapping) and entry.keys() >= _TASK_FIELDS for entry in entries):
        raise InvalidRequest(f'{path}: [0] has no data and annotations: export as JSON, not as JSON-MIN')
    return omissions.each('entry', [(entry, f'{path}: [{number}]') for number, entry in enumerate(entries)], _task)


def _task(entry: object, where: str) -> Json:
    task = as_mapping(entry, f'{where} is left out: it')
    missing = sorted(_TASK_FIELDS - task.keys())
    if missing:
        raise InvalidRequest(
            f'{where} is left out: it has no {" and ".join(missing)}; export the project again as JSON'
        )
    return task


def id_of(item: Json) -> int:
    """Return the id of a task, prediction or annotation; 0 if it has none."""
    number = item.get('id')
    return number if isinstance(number, int) else 0


def name_in(address: object) -> str | None:
    """Return the file name in an address, without Label Studio's prefix; None if it has none.

    Names of local files and of files in buckets keep their folders.
    """
    if not isinstance(address, str) or address.startswith('data:'):
        return None
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    query = parse_qs(parts.query)
    if parts.path.endswith('/presign/') and 'fileuri' in query:
        return name_in(_presigned(query['fileuri'][0]))
    local = query['d'][0] if parts.path.endswith('/data/local-files/') and 'd' in query else None
    uploaded = query['filepath'][0] if parts.path.endswith('/storage-data/uploaded/') and 'filepath' in query else None
    path = local or uploaded or unquote(parts.path)
    if uploaded or '/data/upload/' in path:
        return _UPLOADED.sub('', path.rpartition('/')[2], count=1) or None
    if local or parts.scheme not in ('', 'http', 'https'):
        return path.strip('/') or None
    return path.rpartition('/')[2] or None


def _presigned(text: str) -> str | None:
    """Return the address of a file in a bucket that Label Studio's own address of it contains."""
    try:
        return base64.urlsafe_b64decode(text + '=' * (-len(text) % 4)).decode()
    except ValueError:
        return None


def made_name(task_id: int, address: str) -> str:
    """Return a file name for a task whose address has none, such as a `data:` URI: `task-2.png`."""
    kind = _IMAGE_KIND.match(address)
    return f'task-{task_id}.{"jpg" if kind is None else kind["kind"].lower().replace("jpeg", "jpg")}'


def address_of(task: Json, image_key: str) -> object:
    """Return what a task's data holds as the address of its image; None if there is nothing."""
    data = task.get('data')
    return data.get(image_key) if isinstance(data, Mapping) else None


def file_of(task: Json, config: LabelingConfig) -> str:
    """Return the name of a task's image file without folders; empty if its address has none."""
    return (name_in(address_of(task, config.image_key)) or '').rpartition('/')[2]


def annotations_of(task: Json) -> list[Json]:
    """Return all annotations, skipped ones included."""
    return _labels(task.get('annotations'))


def check_labels(task: Json, kind: str) -> None:
    """Check that the labels of a task can be read; a file may list predictions by number only, which are no labels.

    :param kind: `annotations` or `predictions`.
    :raises InvalidRequest: one of them has no list of regions, so that the task would count as not labelled.
    """
    where = f'task {id_of(task)} is left out: {kind}'
    labels = as_list(task.get(kind) or [], where)
    for label, name in ((label, f'{where}[{number}].result') for number, label in enumerate(labels)):
        if isinstance(label, Mapping):
            for number, region in enumerate(as_list(label.get('result'), name)):
                as_mapping(region, f'{name}[{number}]')


def newest_annotation(task: Json) -> Json | None:
    """Return the annotation that was changed last; skipped ones do not count."""
    found = [annotation for annotation in annotations_of(task) if not annotation.get('was_cancelled')]
    return max(found, key=_changed, default=None)


def predictions_of(task: Json) -> dict[str, list[Json]]:
    """Return the predictions by model version, the newest of each first."""
    found: dict[str, list[Json]] = {}
    for prediction in sorted(_labels(task.get('predictions')), key=_made, reverse=True):
        found.setdefault(str(prediction.get('model_version') or WITHOUT_VERSION), []).append(prediction)
    return found


def newest_prediction(task: Json, model_version: str | None) -> Json | None:
    """Return the newest prediction of a version, or of those without a version if it is None."""
    return next(iter(predictions_of(task).get(model_version or WITHOUT_VERSION, ())), None)


def newest_version(tasks: Iterable[Json]) -> str | None:
    """Return the model version of the newest prediction; None without predictions."""
    found = [predictions[0] for task in tasks for predictions in predictions_of(task).values()]
    newest = max(found, key=_made, default=None)
    return None if newest is None else newest.get('model_version')


def results_of(item: Json) -> list[Json]:
    """Return the regions of an annotation or a prediction."""
    return _objects(item.get('result'))


def size_of(results: Iterable[Json]) -> Size | None:
    """Return the image size from the first region that states one."""
    sizes = (size_in(region, 'original_width', 'original_height') for region in results)
    return next((size for size in sizes if size is not None), None)


def keypoints_of(config: LabelingConfig) -> NDArray[np.bool_]:
    """Return the mask of the keypoints that a labeling config offers, shape (133,)."""
    offered = np.zeros(KEYPOINT_COUNT, dtype=np.bool_)
    if config.points is not None:
        offered[list(config.points.written)] = True
    for indices in () if config.skeletons is None else config.skeletons.read.values():
        offered[list(indices)] = True
    return offered


def persons_in(results: Sequence[Json], config: LabelingConfig, size: Size) -> list[Person]:
    """Return the persons of an annotation or a prediction, with only the keypoints that the config offers.

    :param size: size of the image in pixels.
    """
    offered = keypoints_of(config)
    persons = [
        replace(person, visibility=np.where(offered, person.visibility, NOT_LABELLED).astype(np.int8))
        for person in from_results(results, config, size)
    ]
    return [person for person in persons if not person.is_empty]


def _labels(value: object) -> list[Json]:
    """Return the annotations or predictions that have a list of regions."""
    return [item for item in _objects(value) if isinstance(item.get('result'), list)]


def _objects(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _changed(item: Json) -> tuple[str, int]:
    """Sort key by last change: the annotation that was saved last counts."""
    return str(item.get('updated_at') or item.get('created_at') or ''), id_of(item)


def _made(item: Json) -> tuple[str, int]:
    """Sort key by creation: the review queue changes old predictions, too."""
    return str(item.get('created_at') or ''), id_of(item)
