"""Decides which images are worth annotating: those with an uncertain or implausible pose that is new to its camera.

A pose is judged by the mapped confidences of its box and its parts (see `models.package`). Relevant poses are
remembered per camera, so that the images of a person who does not move are sent once. Cost and memory are bounded by
`MAX_POSES` per image, `MAX_REMEMBERED` per camera and `MAX_CAMERAS`, whatever camera ids clients send. The number of
images per camera is bounded too, because uncertain poses jitter and would look new in every frame.
"""

import hashlib
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.pose.pose import Pose
from detector.pose.similarity import (
    ABSENT,
    BODY_SLICE,
    BOX_TO_OKS_AREA,
    MIN_BODY_KEYPOINTS,
    PRESENT,
    box_ious,
    oks,
    shared_bodies,
)
from detector.pose.skeleton import OKS_SIGMAS, PARTS

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

UNCERTAIN: Final = 'uncertain'
UNCERTAIN_PERSON: Final = 'uncertain_person'
UNCERTAIN_TAGS: Final = (UNCERTAIN_PERSON, *(f'uncertain_{part.name}' for part in PARTS))
"""Tags for an uncertain box, then for each uncertain part; each is always accompanied by `uncertain`."""
NO_BODY: Final = 'person_without_body'
OUTSIDE_BOX: Final = 'keypoints_outside_box'
SAME_BODY: Final = 'poses_share_body'
RANDOM: Final = 'random'

MAX_POSES: Final = 64
"""Number of poses per image that are judged, the best ones."""
MAX_REMEMBERED: Final = 512
"""Number of remembered poses per camera; the one not seen for the longest time is replaced first."""
MAX_CAMERAS: Final = 128
"""Number of remembered camera ids; the least recently used is forgotten first. Images without an id share a history."""

MIN_PRESENT_SHARE: Final = 0.25
"""Share of a part's keypoints, 0..1, that must be present inside the image for the part to be judged."""
BORDER_PIXELS: Final = 1.0
"""Distance to the border, in pixels, within which a keypoint counts as outside: the engine clips it to the border."""
MIN_BODY_EXTENT: Final = 0.1
"""Share of the box's diagonal, 0..1, that the keypoints of the body must span."""
BOX_MARGIN: Final = 0.1
"""Share of the box's width and height, 0..1, by which keypoints may lie outside the box."""
MAX_OUTSIDE_SHARE: Final = 0.1
"""Share of the present keypoints, 0..1, that may lie further outside the box."""
MAX_POSTURES: Final = 10
"""Maximum number of postures at one place that count as new; others count only after some are forgotten."""
BURST: Final = 100
"""Number of relevant images that a camera may send at once; after that, one every `REFILL_SECONDS`."""
REFILL_SECONDS: Final = 10.0
SAME_PLACE_IOU: Final = 0.5
"""Intersection over union from which two boxes are at the same place."""
SAME_POSTURE_OKS: Final = 0.85
"""Object keypoint similarity from which two postures are the same. A raised arm gives a lower one."""

_BODY_SIGMAS: Final = OKS_SIGMAS[BODY_SLICE]
_DIGITS: Final = 4
"""Decimals of a confidence in comparisons with thresholds; answers have the same, so users can check a decision."""
_STARTS: Final = [part.start for part in PARTS]
_SIZES: Final = np.array([len(part.indices) for part in PARTS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision on an image.

    :param tags: reasons why the image is relevant; empty if it is not.
    :param remembered: the remembered poses, for `Relevance.retract`: history, slot and generation.
    """

    tags: tuple[str, ...]
    remembered: tuple[tuple['_History', int, int], ...] = ()


class Relevance:
    """Judges images and remembers the relevant poses. Several threads may use it.

    :param min_uncertain: lowest uncertain confidence, 0..1.
    :param max_uncertain: highest uncertain confidence, 0..1.
    :param reset_seconds: time after which a pose that was not seen again is forgotten.
    :param random_share: share of all images, 0..1, to select at random, as unbiased data for evaluation.
    :param clock: returns the seconds of a monotonic clock.
    :param chance: returns a random number, uniformly distributed in 0..1.
    """

    def __init__(
        self,
        *,
        min_uncertain: float,
        max_uncertain: float,
        reset_seconds: float = 3600,
        random_share: float = 0,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._min = round(min_uncertain, _DIGITS)
        self._max = round(max_uncertain, _DIGITS)
        self._reset_seconds = reset_seconds
        self._random_share = random_share
        self._clock = clock
        self._chance = chance
        self._lock = threading.Lock()
        self._histories: OrderedDict[str, _History] = OrderedDict()
        self._without_id = _History()

    def judge(self, poses: Sequence[Pose], *, size: tuple[int, int], camera_id: str | None = None) -> Verdict:
        """Decide whether an image is relevant, and remember the poses that made it relevant.

        :param poses: poses of the image, best first.
        :param size: width, height of the upright image in pixels.
        """
        tags = [RANDOM] if self._random_share and self._chance() < self._random_share else []
        poses = poses[:MAX_POSES]
        if not poses:
            return Verdict(tags=tuple(tags))
        group = _Group(poses)
        causes = self._causes(group, size)
        doubtful = [index for index, cause in enumerate(causes) if cause]
        if not doubtful:
            return Verdict(tags=tuple(tags))
        with self._lock:
            history = self._history(camera_id)
            now = self._clock()
            views = {index: group.view(index) for index in doubtful}
            news = [index for index in doubtful if not history.knows(views[index], now, now - self._reset_seconds)]
            if not news or not history.may_send(now):
                return Verdict(tags=tuple(tags))
            remembered = tuple((history, *history.remember(views[index], now)) for index in news)
        found = {cause for index in news for cause in causes[index]}
        return Verdict(tags=(*sorted(found), *tags), remembered=remembered)

    def may_send(self, camera_id: str | None = None) -> bool:
        """Return True if the camera may send another relevant image now."""
        with self._lock:
            history = self._without_id if camera_id is None else self._histories.get(_key(camera_id))
            return history is None or history.budget(self._clock()) >= 1

    def retract(self, verdict: Verdict) -> None:
        """Forget the poses of an image that could not be stored, so that the next image of them is relevant again."""
        with self._lock:
            for history, slot, generation in verdict.remembered:
                history.forget(slot, generation)

    def forget(self) -> None:
        """Forget everything."""
        with self._lock:
            self._histories.clear()
            self._without_id = _History()

    def _history(self, camera_id: str | None) -> '_History':
        if camera_id is None:
            return self._without_id
        key = _key(camera_id)
        history = self._histories.get(key)
        if history is None:
            history = self._histories[key] = _History()
        self._histories.move_to_end(key)
        if len(self._histories) > MAX_CAMERAS:
            self._histories.popitem(last=False)
        return history

    def _causes(self, group: '_Group', size: tuple[int, int]) -> list[list[str]]:
        """Return for each pose the tags of everything uncertain or implausible about it."""
        certain = np.concatenate([group.box_confidences[:, None], group.part_confidences(size)], axis=1)
        np.round(certain, _DIGITS, out=certain)
        uncertain = (certain >= self._min) & (certain <= self._max)  # comparisons with nan are false
        present = group.confidences >= PRESENT
        faults = {
            NO_BODY: ~group.has_body(present),
            OUTSIDE_BOX: group.leaves_box(present),
            SAME_BODY: shared_bodies(group.boxes, group.keypoints, group.confidences),
        }
        causes = []
        for index, row in enumerate(uncertain.tolist()):
            parts = [tag for tag, applies in zip(UNCERTAIN_TAGS, row, strict=True) if applies]
            causes.append(
                [*([UNCERTAIN] if parts else []), *parts, *(tag for tag, found in faults.items() if found[index])]
            )
        return causes


def _key(camera_id: str) -> str:
    """Return a text of bounded length that identifies the camera."""
    return hashlib.sha256(camera_id.encode(errors='surrogatepass')).hexdigest() if len(camera_id) > 64 else camera_id


def certainties(poses: Sequence[Pose], *, size: tuple[int, int]) -> Floats:
    """Return the certainty of poses, (N,), 0..1: the lowest confidence among the box and the judged parts.

    :param size: width, height of the image in pixels.
    """
    lowest: Floats = np.nanmin(confidences(poses, size=size), axis=1)
    return lowest


def confidences(poses: Sequence[Pose], *, size: tuple[int, int]) -> Floats:
    """Return the confidences of the box and of the five parts, (N, 6), 0..1; nan for a part that is not judged.

    The confidence of a part is the mean over its present keypoints inside the image.

    :param size: width, height of the image in pixels.
    """
    group = _Group(poses)
    return np.concatenate([group.box_confidences[:, None], group.part_confidences(size)], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """Place and posture of a pose; the posture is independent of place and size.

    :param box: (4,), x1, y1, x2, y2 in pixels.
    :param posture: (17, 2), body keypoints relative to the centre of the box, in units of the square root of its area.
    :param visible: (17,), True for the keypoints to compare.
    """

    box: Floats
    posture: Floats
    visible: Bools


class _Group:
    """The poses of an image as arrays: boxes (N, 4), keypoints (N, 133, 2), confidences (N, 133)."""

    def __init__(self, poses: Sequence[Pose]) -> None:
        self.boxes = np.array([pose.box for pose in poses])
        self.keypoints = np.array([pose.keypoints for pose in poses])
        self.confidences = np.array([pose.confidences for pose in poses])
        self.box_confidences = np.array([pose.box_confidence for pose in poses])
        # as columns, because numpy reduces an axis of length two slowly
        self._x, self._y = self.keypoints[..., 0], self.keypoints[..., 1]
        self._sides = np.maximum(self.boxes[:, 2:] - self.boxes[:, :2], 1)
        self._areas = self._sides.prod(axis=1)

    def view(self, index: int) -> _View:
        box = self.boxes[index]
        centre = (box[:2] + box[2:]) / 2
        return _View(
            box=box,
            posture=(self.keypoints[index, BODY_SLICE] - centre) / np.sqrt(self._areas[index]),
            visible=self.confidences[index, BODY_SLICE] >= PRESENT,
        )

    def part_confidences(self, size: tuple[int, int]) -> Floats:
        """Return the mean confidence of each part's present keypoints, (N, 5); nan where too few are present."""
        right, bottom = (side - 1 - BORDER_PIXELS for side in size)
        inside = (self._x >= BORDER_PIXELS) & (self._x <= right) & (self._y >= BORDER_PIXELS) & (self._y <= bottom)
        judged = (inside & (self.confidences >= ABSENT)).astype(np.float32)
        counts = np.add.reduceat(judged, _STARTS, axis=1)
        sums = np.add.reduceat(judged * self.confidences, _STARTS, axis=1)
        means: Floats = np.where(counts >= MIN_PRESENT_SHARE * _SIZES, sums / np.maximum(counts, 1), np.nan)
        return means

    def has_body(self, present: Bools) -> Bools:
        """Return for each pose, (N,), whether it has enough body keypoints that are not all in one spot."""
        body = present[:, BODY_SLICE]
        points, counted = self.keypoints[:, BODY_SLICE], body[..., None]
        spans = np.where(counted, points, -np.inf).max(axis=1) - np.where(counted, points, np.inf).min(axis=1)
        wide = np.square(spans).sum(axis=1) >= MIN_BODY_EXTENT**2 * np.square(self._sides).sum(axis=1)
        has: Bools = wide & (body.sum(axis=1) >= MIN_BODY_KEYPOINTS)
        return has

    def leaves_box(self, present: Bools) -> Bools:
        """Return for each pose, (N,), whether many of its keypoints lie outside its box."""
        margin = BOX_MARGIN * self._sides
        left, top = (self.boxes[:, :2] - margin).T[..., None]
        right, bottom = (self.boxes[:, 2:] + margin).T[..., None]
        outside = ((self._x < left) | (self._x > right) | (self._y < top) | (self._y > bottom)) & present
        share: Bools = outside.sum(axis=1) > MAX_OUTSIDE_SHARE * present.sum(axis=1)
        return share


class _History:
    """The remembered poses of one camera: place, posture and time of the last sighting."""

    def __init__(self) -> None:
        self._boxes = np.zeros((4, MAX_REMEMBERED), dtype=np.float32).T  # each coordinate is contiguous in memory
        self._postures = np.zeros((MAX_REMEMBERED, len(_BODY_SIGMAS), 2), dtype=np.float32)
        self._visible = np.zeros((MAX_REMEMBERED, len(_BODY_SIGMAS)), dtype=np.bool_)
        self._seen = np.full(MAX_REMEMBERED, -np.inf)
        self._budget = float(BURST)
        self._refilled = np.inf
        self._generations = np.zeros(MAX_REMEMBERED, dtype=np.int64)

    def budget(self, now: float) -> float:
        """Return the number of relevant images that the camera may send now."""
        return min(BURST, self._budget + max(0.0, now - self._refilled) / REFILL_SECONDS)

    def may_send(self, now: float) -> bool:
        """Return True if the camera may send another relevant image, and count that image."""
        self._budget = self.budget(now)
        self._refilled = now
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    def knows(self, view: _View, now: float, since: float) -> bool:
        """Return True if the pose is not new, and update the last sighting of equal poses.

        A pose is not new if an equal one was seen since the given time, or `MAX_POSTURES` others at its place.
        """
        near = (self._seen >= since) & (box_ious(view.box, self._boxes) >= SAME_PLACE_IOU)
        slots = np.flatnonzero(near)
        if not slots.size:
            return False
        alike = slots[self._alike(view, slots)]
        self._seen[alike] = now
        return bool(alike.size) or len(slots) >= MAX_POSTURES

    def _alike(self, view: _View, slots: NDArray[np.intp]) -> Bools:
        """Return for each slot whether its posture equals the view's; without comparable bodies, the place decides."""
        theirs = self._visible[slots]
        both = theirs & view.visible
        similarity = oks(self._postures[slots], view.posture, both, area=BOX_TO_OKS_AREA, sigmas=_BODY_SIGMAS)
        larger = np.maximum(theirs.sum(axis=1), view.visible.sum())
        comparable = 2 * both.sum(axis=1) >= larger
        alike: Bools = (larger < MIN_BODY_KEYPOINTS) | (comparable & (similarity >= SAME_POSTURE_OKS))
        return alike

    def remember(self, view: _View, now: float) -> tuple[int, int]:
        """Remember a pose in place of the one not seen for the longest time.

        :return: slot and its generation, for `forget`.
        """
        slot = int(np.argmin(self._seen))
        self._boxes[slot] = view.box
        self._postures[slot] = view.posture
        self._visible[slot] = view.visible
        self._seen[slot] = now
        self._generations[slot] += 1
        return slot, int(self._generations[slot])

    def forget(self, slot: int, generation: int) -> None:
        if self._generations[slot] == generation:
            self._seen[slot] = -np.inf
