"""Pose: one person's box and 133 keypoints, and their JSON form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .names import canonical_name
from .skeleton import KEYPOINT_COUNT, KEYPOINT_INDEX, KEYPOINT_NAMES

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pose:
    """One person's box and 133 keypoints.

    Coordinates are pixels of the upright image; (0, 0) is the centre of its upper left pixel.

    :param box: shape (4,), float32: x1, y1, x2, y2.
    :param box_confidence: 0..1.
    :param keypoints: shape (133, 2), float32: x, y, in the order of `KEYPOINT_NAMES`.
    :param confidences: shape (133,), float32, 0..1. All 133 keypoints are always present; an invisible one has a low
        confidence.
    :raises ValueError: an array has another shape.

    >>> pose = PoseEngine(open_package(embedded_package())).poses(read_image('photo.jpg'))[0]
    >>> nose = KEYPOINT_NAMES.index('nose')
    >>> pose.keypoints[nose].round().tolist(), bool(pose.confidences[nose] > 0.5)
    ([785.0, 346.0], True)
    """

    box: FloatArray
    box_confidence: float
    keypoints: FloatArray
    confidences: FloatArray

    def __post_init__(self) -> None:
        shapes = self.box.shape, self.keypoints.shape, self.confidences.shape
        if shapes != ((4,), (KEYPOINT_COUNT, 2), (KEYPOINT_COUNT,)):
            raise ValueError(
                f'box, keypoints and confidences have the shapes {shapes}; (4,), (133, 2), (133,) are expected'
            )

    def to_json(self) -> dict[str, Any]:
        """Return the pose in the form of `POST /poses`: coordinates in pixels to 0.01, confidences to 0.0001."""
        points = np.round(self.keypoints.astype(np.float64), 2).tolist()
        confidences = np.round(self.confidences.astype(np.float64), 4).tolist()
        x1, y1, x2, y2 = np.round(self.box.astype(np.float64), 2).tolist()
        return {
            'box': {'x': x1, 'y': y1, 'width': round(x2 - x1, 2), 'height': round(y2 - y1, 2)},
            'confidence': round(float(self.box_confidence), 4),
            'keypoints': [
                {'name': name, 'x': x, 'y': y, 'confidence': confidence}
                for name, (x, y), confidence in zip(KEYPOINT_NAMES, points, confidences, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> 'Pose':
        """Return the pose that `to_json` describes. Its keypoints may be in any order.

        :raises KeyError: a field or keypoint name is missing or unknown.
        """
        keypoints = np.zeros((KEYPOINT_COUNT, 2), dtype=np.float32)
        confidences = np.zeros(KEYPOINT_COUNT, dtype=np.float32)
        for point in data['keypoints']:
            index = KEYPOINT_INDEX[point['name']]
            keypoints[index] = point['x'], point['y']
            confidences[index] = point['confidence']
        box = data['box']
        corners = box['x'], box['y'], box['x'] + box['width'], box['y'] + box['height']
        return cls(
            box=np.array(corners, dtype=np.float32),
            box_confidence=float(data['confidence']),
            keypoints=keypoints,
            confidences=confidences,
        )


def poses_to_json(poses: Sequence[Pose], *, width: int, height: int, model_version: str) -> dict[str, Any]:
    """Return the answer of `POST /poses` for one image.

    :param poses: poses in the image.
    :param width: width of the upright image in pixels.
    :param height: height of the upright image in pixels.
    :param model_version: name and version of the model, see `ModelPackage.model_version`.

    >>> engine = PoseEngine(open_package(embedded_package()))
    >>> poses = engine.poses(read_image('photo.jpg'))
    >>> version = engine.package.model_version
    >>> answer = poses_to_json(poses, width=1024, height=683, model_version=version)
    >>> len(answer['poses']), answer['image'], answer['model_version']
    (2, {'width': 1024, 'height': 683}, 'test-card 0.0')
    """
    return {
        'poses': [pose.to_json() for pose in poses],
        'image': {'width': width, 'height': height},
        'model_version': model_version,
    }


@np.errstate(over='raise')
def poses_from_metadata(metadata: Mapping[str, Any]) -> list[Pose]:
    """Return the poses in the Loop's metadata of an image: the annotated ones if there are any, else the detected ones.

    Detected points 133·i to 133·i + 132 belong to box i. A box without points gets keypoints of confidence 0. Annotated
    boxes and points have a confidence of 1; see `_annotated_points` for their order.

    :param metadata: ImageMetadata as JSON.
    :raises KeyError: a detection or an annotation lacks a field.
    :raises ArithmeticError: a number is too large for float32.
    """
    boxes, points = metadata.get('box_annotations') or [], metadata.get('point_annotations') or []
    if boxes:
        return [_pose(*found) for found in zip(boxes, _annotated_points(boxes, points), strict=True)]
    points = metadata.get('point_detections') or []
    return [
        _pose(box, points[KEYPOINT_COUNT * index : KEYPOINT_COUNT * (index + 1)])
        for index, box in enumerate(metadata.get('box_detections') or [])
    ]


def _pose(box: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> Pose:
    keypoints = np.zeros((KEYPOINT_COUNT, 2), dtype=np.float32)
    confidences = np.zeros(KEYPOINT_COUNT, dtype=np.float32)
    for point in points:
        position = _position(point)
        if position is not None:
            keypoints[position] = point['x'], point['y']
            confidences[position] = point.get('confidence', 1)
    x, y = box['x'], box['y']
    corners = np.array([x, y, x + box['width'], y + box['height']], dtype=np.float32)
    return Pose(box=corners, box_confidence=box.get('confidence', 1), keypoints=keypoints, confidences=confidences)


def _position(point: Mapping[str, Any]) -> int | None:
    return KEYPOINT_INDEX.get(canonical_name(point['category_name']) or '')


def _annotated_points(
    boxes: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]]
) -> list[list[Mapping[str, Any]]]:
    """Return the annotated points of each box.

    The metadata lists the labelled points of one person after the other, each in the order of the skeleton, without a
    mark between persons. The boxes have the same order. Of the ways to divide the points among the boxes that keep both
    orders, the one with most points inside their boxes counts. If there is no way, for example in metadata of other
    programs, each run of points in the order of the skeleton belongs to the box that holds most of them.
    """
    known = [(position, point) for point in points if (position := _position(point)) is not None]
    found: list[list[Mapping[str, Any]]] = [[] for _ in boxes]
    if not known:
        return found
    inside = np.array([[_holds(box, point) for box in boxes] for _, point in known])
    continues = np.array([False, *(before < after for (before, _), (after, _) in pairwise(known))])
    owners = _in_order(inside, continues)
    if owners is None:
        runs = np.split(inside, np.flatnonzero(~continues)[1:])
        owners = np.concatenate([np.full(len(run), run.sum(axis=0).argmax()) for run in runs])
    for owner, (_, point) in zip(owners.tolist(), known, strict=True):
        found[owner].append(point)
    return found


def _in_order(inside: NDArray[np.bool_], continues: NDArray[np.bool_]) -> NDArray[np.intp] | None:
    """Return the box of each point, in ascending order, with as many points inside their boxes as possible.

    :param inside: True if a box holds a point, shape (points, boxes).
    :param continues: True if a point may belong to the box of the point before, shape (points,).
    :return: shape (points,); None if there are too few boxes.
    """
    boxes, best = np.arange(inside.shape[1]), inside[0].astype(float)
    before = np.zeros(inside.shape, dtype=np.intp)
    for index in range(1, len(inside)):
        # the best box up to each one, for points that move on to the next or a later one
        leaders = np.maximum.accumulate(np.where(best == np.maximum.accumulate(best), boxes, 0))
        moved = np.concatenate([[-np.inf], best[leaders[:-1]]])
        stayed = best if continues[index] else np.full_like(best, -np.inf)
        before[index] = np.where(stayed >= moved, boxes, np.concatenate([[0], leaders[:-1]]))
        best = np.maximum(stayed, moved) + inside[index]
    owner = int(best.argmax())
    if not np.isfinite(best[owner]):
        return None
    owners = np.zeros(len(inside), dtype=np.intp)
    for index in range(len(inside) - 1, -1, -1):
        owners[index] = owner
        owner = int(before[index, owner])
    return owners


def _holds(box: Mapping[str, Any], point: Mapping[str, Any]) -> bool:
    right, bottom = box['x'] + box['width'], box['y'] + box['height']
    return bool(box['x'] <= point['x'] <= right and box['y'] <= point['y'] <= bottom)
