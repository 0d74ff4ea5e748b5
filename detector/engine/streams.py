"""Streams: between two detections the persons before a camera are looked for where they were.

What each frame answers is right by itself: whenever somebody is lost, two poses become one, the picture changes, or
nobody was there, the person detector runs at once. Identities over frames are not kept.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.pose.images import Image
from detector.pose.pose import FloatArray, Pose
from detector.pose.similarity import BODY, MIN_BODY_KEYPOINTS, PRESENT, shared_bodies

MAX_STREAMS: Final = 64
"""Cameras that are remembered; the one that was heard of longest ago makes room."""
_LOST_SHARE: Final = 0.6
"""Of the mean confidence at the detection, below which a person counts as lost."""
_MAX_GROWTH: Final = 1.5
"""By which a box's sides may change from one frame to the next."""
_MAX_MARGIN: Final = 0.5
_THUMBNAIL: Final = 32
_SCENE_CHANGE: Final = 20.0
"""Mean difference of the thumbnails' values, 0..255, from which the picture is another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Track:
    """A person whom the next frame is to show.

    :param box: (4,), where to look: x1, y1, x2, y2 in pixels.
    :param margins: (4,), from the keypoints' extent out to the detector's box, in sides of the extent.
    :param confidence: mean over the body's keypoints when the detector saw the person.
    """

    box: FloatArray
    margins: FloatArray
    box_confidence: float
    confidence: float


class PoseSource(Protocol):
    """What `Streams` needs of a `PoseEngine`."""

    def poses(self, image: Image) -> list[Pose]:
        """Of all persons, found anew."""

    def poses_in_boxes(self, queries: Sequence[tuple[Image, FloatArray, FloatArray]]) -> list[list[Pose]]:
        """In boxes, with the confidences of those."""


class Streams:
    """The cameras of one engine; calls must not overlap.

    :param interval: the detector runs on every so many frames, at least.
    """

    def __init__(self, engine: PoseSource, *, interval: int) -> None:
        self._engine = engine
        self._interval = interval
        self._streams: OrderedDict[str, _Stream] = OrderedDict()

    def poses(self, image: Image, camera_id: str) -> list[Pose]:
        """Find the persons in the next frame of a camera.

        :param image: RGB uint8, H×W×3.
        """
        stream = self._streams.get(camera_id)
        if stream is None:
            stream = self._streams[camera_id] = _Stream(self._engine, self._interval)
            if len(self._streams) > MAX_STREAMS:
                self._streams.popitem(last=False)
        self._streams.move_to_end(camera_id)
        return stream.poses(image)


class _Stream:
    def __init__(self, engine: PoseSource, interval: int) -> None:
        self._engine = engine
        self._interval = interval
        self._since_detection = 0
        self._tracks: list[_Track] = []
        self._thumbnail: NDArray[np.int16] | None = None
        self._shape: tuple[int, ...] = ()

    def poses(self, image: Image) -> list[Pose]:
        followed = self._follow(image) if self._may_follow(image) else None
        if followed is not None:
            self._since_detection += 1
            return followed
        poses = self._engine.poses(image)
        self._since_detection = 1
        self._tracks = [_track(pose) for pose in poses if _extent(pose) is not None]
        if len(self._tracks) < len(poses):
            self._tracks = []  # whoever cannot be followed is detected anew
        return poses

    def _may_follow(self, image: Image) -> bool:
        before, shape = self._thumbnail, self._shape
        rows, columns = (max(1, side // _THUMBNAIL) for side in image.shape[:2])
        self._thumbnail = image[::rows, ::columns].mean(axis=2).astype(np.int16)
        self._shape = image.shape
        if not self._tracks or self._since_detection >= self._interval or shape != image.shape or before is None:
            return False
        return float(np.abs(self._thumbnail - before).mean()) < _SCENE_CHANGE

    def _follow(self, image: Image) -> list[Pose] | None:
        """The poses where they are expected; None if one of them is not there."""
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
        self._tracks = [
            _Track(
                box=pose.box, margins=track.margins, box_confidence=track.box_confidence, confidence=track.confidence
            )
            for pose, track in zip(poses, self._tracks, strict=True)
        ]
        return poses


def _extent(pose: Pose) -> FloatArray | None:
    """What the present keypoints span, (4,): x1, y1, x2, y2; None without a body."""
    present = pose.confidences >= PRESENT
    if present[BODY].sum() < MIN_BODY_KEYPOINTS:
        return None
    points = pose.keypoints[present]
    extent = np.concatenate([points.min(axis=0), points.max(axis=0)])
    return extent if (extent[2:] - extent[:2] >= 1).all() else None


def _track(pose: Pose) -> _Track:
    extent = _extent(pose)
    assert extent is not None
    sides = np.tile(extent[2:] - extent[:2], 2)
    outwards = np.array([-1, -1, 1, 1], dtype=np.float32)
    return _Track(
        box=pose.box,
        margins=np.clip(outwards * (pose.box - extent) / sides, 0, _MAX_MARGIN),
        box_confidence=pose.box_confidence,
        confidence=float(pose.confidences[BODY].mean()),
    )


def _moved(pose: Pose, track: _Track, image: Image) -> Pose | None:
    """The pose with its box where the person is now; None if that is nobody, or somebody else."""
    extent = _extent(pose)
    if extent is None or pose.confidences[BODY].mean() < _LOST_SHARE * track.confidence:
        return None
    sides = np.tile(extent[2:] - extent[:2], 2)
    height, width = image.shape[:2]
    box = extent + np.array([-1, -1, 1, 1], dtype=np.float32) * track.margins * sides
    box = np.clip(box, 0, np.array([width, height, width, height])).astype(np.float32)
    growth = (box[2:] - box[:2]) / np.maximum(track.box[2:] - track.box[:2], 1)
    if (growth > _MAX_GROWTH).any() or (growth < 1 / _MAX_GROWTH).any():
        return None
    return Pose(box=box, box_confidence=track.box_confidence, keypoints=pose.keypoints, confidences=pose.confidences)
