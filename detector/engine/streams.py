"""Streams of frames: between two detections, persons are searched near their last position.

Each answer is correct on its own: the person detector runs at once if a person is lost, two poses become one, the
picture changes, or the last frame showed no person. Identities over frames are not kept.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.pose.images import Image
from detector.pose.pose import FloatArray, Pose
from detector.pose.similarity import BODY_SLICE, MIN_BODY_KEYPOINTS, PRESENT, shared_bodies

from .person_detector import clip_boxes
from .pose_engine import Found

MAX_STREAMS: Final = 64
"""Maximum number of remembered cameras; the least recently used one is dropped."""
_LOST_SHARE: Final = 0.6
"""Share of the mean confidence at detection; a person whose confidence falls below it counts as lost."""
_MAX_GROWTH: Final = 1.5
"""Largest factor by which a side of a box may change from one frame to the next."""
_MAX_MARGIN: Final = 0.5
"""Largest distance of a box's side outside the keypoints, as a share of the keypoints' extent."""
_THUMBNAIL: Final = 32
"""Approximate side of the thumbnails that are compared, in pixels."""
_SCENE_CHANGE: Final = 20.0
"""Mean difference of two thumbnails, 0..255, from which the scene counts as changed."""
_OUTWARDS: Final = np.array([-1, -1, 1, 1], dtype=np.float32)
"""Signs of the changes of x1, y1, x2, y2 when a box grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Track:
    """A person whom the next frame is expected to show.

    :param box: (4,), where to search: x1, y1, x2, y2 in pixels.
    :param margins: (4,), distances from the extent of the keypoints to the detector's box, in sides of the extent.
    :param box_confidence: confidence of the detector's box.
    :param confidence: mean confidence of the body keypoints in the frame of the detection.
    """

    box: FloatArray
    margins: FloatArray
    box_confidence: float
    confidence: float


class PoseSource(Protocol):
    """The part of `PoseEngine` that `Streams` needs."""

    def find(self, images: Sequence[Image], *, with_uncertain: bool = False) -> list[Found]:
        """See `PoseEngine.find`."""

    def poses_in_boxes(self, queries: Sequence[tuple[Image, FloatArray, FloatArray]]) -> list[list[Pose]]:
        """See `PoseEngine.poses_in_boxes`."""


class Streams:
    """The cameras of one engine. Calls must not overlap.

    :param interval: the detector runs at least on every `interval`-th frame.
    """

    def __init__(self, engine: PoseSource, *, interval: int) -> None:
        self._engine = engine
        self._interval = interval
        self._streams: OrderedDict[str, _Stream] = OrderedDict()

    def find(self, image: Image, camera_id: str, *, with_uncertain: bool = False) -> Found:
        """Find the persons in the next frame of a camera.

        :param image: RGB uint8, H×W×3.
        :param camera_id: any text that identifies the camera.
        :param with_uncertain: see `PoseEngine.find`; uncertain boxes are found in frames in which the detector runs.
        """
        stream = self._streams.get(camera_id)
        if stream is None:
            stream = self._streams[camera_id] = _Stream(self._engine, self._interval)
            if len(self._streams) > MAX_STREAMS:
                self._streams.popitem(last=False)
        self._streams.move_to_end(camera_id)
        return stream.find(image, with_uncertain)


class _Stream:
    def __init__(self, engine: PoseSource, interval: int) -> None:
        self._engine = engine
        self._interval = interval
        self._since_detection = 0
        self._tracks: list[_Track] = []
        self._thumbnail: NDArray[np.int16] | None = None
        self._shape: tuple[int, ...] = ()

    def find(self, image: Image, with_uncertain: bool) -> Found:
        followed = self._follow(image) if self._may_follow(image) else None
        if followed is not None:
            self._since_detection += 1
            return Found(poses=followed)
        (found,) = self._engine.find([image], with_uncertain=with_uncertain)
        self._since_detection = 1
        tracks = [track for track in map(_track, found.poses) if track is not None]
        self._tracks = tracks if len(tracks) == len(found.poses) else []  # otherwise all are detected in each frame
        return found

    def _may_follow(self, image: Image) -> bool:
        before, shape = self._thumbnail, self._shape
        rows, columns = (max(1, side // _THUMBNAIL) for side in image.shape[:2])
        self._thumbnail = image[::rows, ::columns].mean(axis=2).astype(np.int16)
        self._shape = image.shape
        if not self._tracks or self._since_detection >= self._interval or shape != image.shape or before is None:
            return False
        return float(np.abs(self._thumbnail - before).mean()) < _SCENE_CHANGE

    def _follow(self, image: Image) -> list[Pose] | None:
        """Return the poses at the expected positions; None if one of the persons is missing there."""
        boxes = np.stack([track.box for track in self._tracks])
        confidences = np.array([track.box_confidence for track in self._tracks], dtype=np.float32)
        (found,) = self._engine.poses_in_boxes([(image, boxes, confidences)])
        poses = []
        for pose, track in zip(found, self._tracks, strict=True):
            moved = _moved(pose, track, image)
            if moved is None:
                return None
            poses.append(moved)
        boxes = np.stack([pose.box for pose in poses])
        keypoints = np.stack([pose.keypoints for pose in poses])
        if shared_bodies(boxes, keypoints, np.stack([pose.confidences for pose in poses])).any():
            return None
        self._tracks = [replace(track, box=pose.box) for pose, track in zip(poses, self._tracks, strict=True)]
        return poses


def _extent(pose: Pose) -> FloatArray | None:
    """Return the bounding box of the present keypoints, (4,): x1, y1, x2, y2; None without a visible body."""
    present = pose.confidences >= PRESENT
    if present[BODY_SLICE].sum() < MIN_BODY_KEYPOINTS:
        return None
    points = pose.keypoints[present]
    extent = np.concatenate([points.min(axis=0), points.max(axis=0)])
    return extent if (extent[2:] - extent[:2] >= 1).all() else None


def _track(pose: Pose) -> _Track | None:
    extent = _extent(pose)
    if extent is None:
        return None
    sides = np.tile(extent[2:] - extent[:2], 2)
    return _Track(
        box=pose.box,
        margins=np.clip(_OUTWARDS * (pose.box - extent) / sides, 0, _MAX_MARGIN),
        box_confidence=pose.box_confidence,
        confidence=float(pose.confidences[BODY_SLICE].mean()),
    )


def _moved(pose: Pose, track: _Track, image: Image) -> Pose | None:
    """Return the pose with its box at the new position; None if the person is lost or is another one."""
    extent = _extent(pose)
    if extent is None or pose.confidences[BODY_SLICE].mean() < _LOST_SHARE * track.confidence:
        return None
    sides = np.tile(extent[2:] - extent[:2], 2)
    box = clip_boxes(extent + _OUTWARDS * track.margins * sides, image.shape)
    growth = (box[2:] - box[:2]) / np.maximum(track.box[2:] - track.box[:2], 1)
    if (growth > _MAX_GROWTH).any() or (growth < 1 / _MAX_GROWTH).any():
        return None
    return replace(pose, box=box, box_confidence=track.box_confidence)
