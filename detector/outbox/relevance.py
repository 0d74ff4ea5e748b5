"""Which images are worth a person's time: those with a pose that the model is unsure of, once per camera and place.

A pose is judged by its box and by its parts, on the package's mapped confidences (see `model_package`). What was found
relevant is remembered per camera, so that a person who stays as they are is sent once. Cost and memory are bounded:
by `MAX_POSES` per image, `MAX_REMEMBERED` per camera and `MAX_CAMERAS`, whatever ids clients invent. So is what one
camera sends: uncertain poses jitter, and their jitter is no news.
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
from detector.pose.similarity import BODY, BOX_TO_OKS_AREA, MIN_BODY_KEYPOINTS, PRESENT, box_ious, oks, shared_bodies
from detector.pose.skeleton import OKS_SIGMAS, PARTS

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

UNCERTAIN: Final = 'uncertain'
UNCERTAIN_TAGS: Final = ('uncertain_person', *(f'uncertain_{part.name}' for part in PARTS))
"""Of the box, then of each part; such a tag never comes without `uncertain`."""
NO_BODY: Final = 'person_without_body'
OUTSIDE_BOX: Final = 'keypoints_outside_box'
SAME_BODY: Final = 'poses_share_body'
RANDOM: Final = 'random'

MAX_POSES: Final = 64
"""Of an image, the best ones, that are judged."""
MAX_REMEMBERED: Final = 512
"""Poses per camera; the one that was seen longest ago makes room."""
MAX_CAMERAS: Final = 128
"""Camera ids; the one that was heard of longest ago makes room. Images without an id have a place of their own."""

ABSENT: Final = 0.15
"""A keypoint of lower confidence is plainly absent, as those of hidden legs are."""
MIN_PRESENT_SHARE: Final = 0.25
"""A part of which fewer keypoints are inside the image and not absent is not judged."""
BORDER_PIXELS: Final = 1.0
"""Keypoints that close to the image's border lie outside: the engine moves them there."""
MIN_BODY_EXTENT: Final = 0.1
"""Of the box's diagonal, that the body's keypoints must span."""
BOX_MARGIN: Final = 0.1
"""Of the box's width and height, that keypoints may leave it by."""
MAX_OUTSIDE_SHARE: Final = 0.1
"""Of the present keypoints, that may lie farther out."""
MAX_POSTURES: Final = 10
"""Of one place, that are news until they are forgotten."""
BURST: Final = 100
"""Images that a camera may find relevant at once; from then on one in `REFILL_SECONDS`."""
REFILL_SECONDS: Final = 10.0
SAME_PLACE_IOU: Final = 0.5
SAME_POSTURE_OKS: Final = 0.85
"""A raised arm moves its two keypoints and, with them, the box: that is a new posture."""

_BODY_SIGMAS: Final = OKS_SIGMAS[BODY]
_DIGITS: Final = 4
"""Of confidences, as answers have them: the thresholds are compared with what can be seen."""
_STARTS: Final = [part.start for part in PARTS]
_SIZES: Final = np.array([len(part.indices) for part in PARTS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was decided on an image.

    :param tags: why the image is relevant; empty if it is not.
    :param remembered: what `Relevance.retract` needs to know.
    """

    tags: tuple[str, ...]
    remembered: tuple[tuple['_History', int, int], ...] = ()


class Relevance:
    """Judges images, and remembers what it found relevant.

    May be called from several threads.

    :param min_uncertain: confidences from here …
    :param max_uncertain: … to here are uncertain, 0..1.
    :param reset_seconds: a pose that was not seen for so long is forgotten.
    :param random_share: share of all images, 0..1, that are relevant by chance, for evaluation data without bias.
    :param clock: seconds, never running backwards.
    :param chance: a number 0..1, evenly distributed.
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
        """Decide whether an image is relevant, and remember its poses if they made it so.

        :param poses: of the image, best first.
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

    def retract(self, verdict: Verdict) -> None:
        """Forget what an image was found relevant for, as it could not be kept: the next one will do."""
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
        key = hashlib.sha256(camera_id.encode(errors='surrogatepass')).hexdigest() if len(camera_id) > 64 else camera_id
        history = self._histories.get(key)
        if history is None:
            history = self._histories[key] = _History()
        self._histories.move_to_end(key)
        if len(self._histories) > MAX_CAMERAS:
            self._histories.popitem(last=False)
        return history

    def _causes(self, group: '_Group', size: tuple[int, int]) -> list[list[str]]:
        """Per pose what is doubtful about it, as tags."""
        certain = np.concatenate([group.box_confidences[:, None], group.part_confidences(size)], axis=1)
        np.round(certain, _DIGITS, out=certain)
        uncertain = (certain >= self._min) & (certain <= self._max)  # nan is neither
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


def certainties(poses: Sequence[Pose], *, size: tuple[int, int]) -> Floats:
    """How certain a model is of poses, (N,), 0..1: the lowest of the box's confidence and its judged parts'.

    :param size: width, height of the image in pixels.
    """
    lowest: Floats = np.nanmin(confidences(poses, size=size), axis=1)
    return lowest


def confidences(poses: Sequence[Pose], *, size: tuple[int, int]) -> Floats:
    """Of boxes, then of each part the mean over the keypoints that can be there, (N, 6), 0..1; nan: it is not judged.

    :param size: width, height of the image in pixels.
    """
    group = _Group(poses)
    return np.concatenate([group.box_confidences[:, None], group.part_confidences(size)], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What makes a pose recognisable: its place, and its posture whatever the place and size.

    :param box: (4,), x1, y1, x2, y2 in pixels.
    :param posture: (17, 2), the body's keypoints about the box's centre, in square roots of the box's area.
    :param visible: (17,), the keypoints that count.
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
        # by columns, since numpy is slow at reducing an axis of two
        self._x, self._y = self.keypoints[..., 0], self.keypoints[..., 1]
        self._sides = np.maximum(self.boxes[:, 2:] - self.boxes[:, :2], 1)
        self._areas = self._sides.prod(axis=1)

    def view(self, index: int) -> _View:
        box = self.boxes[index]
        centre = (box[:2] + box[2:]) / 2
        return _View(
            box=box,
            posture=(self.keypoints[index, BODY] - centre) / np.sqrt(self._areas[index]),
            visible=self.confidences[index, BODY] >= PRESENT,
        )

    def part_confidences(self, size: tuple[int, int]) -> Floats:
        """Mean confidence per part of the keypoints that can be there, (N, 5); nan where those are too few."""
        right, bottom = (side - 1 - BORDER_PIXELS for side in size)
        inside = (self._x >= BORDER_PIXELS) & (self._x <= right) & (self._y >= BORDER_PIXELS) & (self._y <= bottom)
        judged = (inside & (self.confidences >= ABSENT)).astype(np.float32)
        counts = np.add.reduceat(judged, _STARTS, axis=1)
        sums = np.add.reduceat(judged * self.confidences, _STARTS, axis=1)
        means: Floats = np.where(counts >= MIN_PRESENT_SHARE * _SIZES, sums / np.maximum(counts, 1), np.nan)
        return means

    def has_body(self, present: Bools) -> Bools:
        """Whether a pose has a few keypoints of a body, and not all in one spot."""
        body = present[:, BODY]
        points, counted = self.keypoints[:, BODY], body[..., None]
        spans = np.where(counted, points, -np.inf).max(axis=1) - np.where(counted, points, np.inf).min(axis=1)
        wide = np.square(spans).sum(axis=1) >= MIN_BODY_EXTENT**2 * np.square(self._sides).sum(axis=1)
        has: Bools = wide & (body.sum(axis=1) >= MIN_BODY_KEYPOINTS)
        return has

    def leaves_box(self, present: Bools) -> Bools:
        """Whether many keypoints of a pose lie outside its box."""
        margin = BOX_MARGIN * self._sides
        left, top = (self.boxes[:, :2] - margin).T[..., None]
        right, bottom = (self.boxes[:, 2:] + margin).T[..., None]
        outside = ((self._x < left) | (self._x > right) | (self._y < top) | (self._y > bottom)) & present
        share: Bools = outside.sum(axis=1) > MAX_OUTSIDE_SHARE * present.sum(axis=1)
        return share


class _History:
    """The poses that one camera's images were relevant for: place, posture, and when last seen."""

    def __init__(self) -> None:
        self._boxes = np.zeros((4, MAX_REMEMBERED), dtype=np.float32).T  # each coordinate lies in one piece
        self._postures = np.zeros((MAX_REMEMBERED, len(_BODY_SIGMAS), 2), dtype=np.float32)
        self._visible = np.zeros((MAX_REMEMBERED, len(_BODY_SIGMAS)), dtype=np.bool_)
        self._seen = np.full(MAX_REMEMBERED, -np.inf)
        self._budget = float(BURST)
        self._refilled = np.inf
        self._generations = np.zeros(MAX_REMEMBERED, dtype=np.int64)

    def may_send(self, now: float) -> bool:
        """Whether the camera has not sent too much of late; if so, it sends now."""
        self._budget = min(BURST, self._budget + max(0.0, now - self._refilled) / REFILL_SECONDS)
        self._refilled = now
        if self._budget < 1:
            return False
        self._budget -= 1
        return True

    def knows(self, view: _View, now: float, since: float) -> bool:
        """Whether such a pose was seen since then, or so many others in its place; if so, it is seen now."""
        near = (self._seen >= since) & (box_ious(view.box, self._boxes) >= SAME_PLACE_IOU)
        slots = np.flatnonzero(near)
        if not slots.size:
            return False
        alike = slots[self._alike(view, slots)]
        self._seen[alike] = now
        return bool(alike.size) or len(slots) >= MAX_POSTURES

    def _alike(self, view: _View, slots: NDArray[np.intp]) -> Bools:
        """Whether the remembered postures are that of the view; without a body to compare, the place decides."""
        theirs = self._visible[slots]
        both = theirs & view.visible
        similarity = oks(self._postures[slots], view.posture, both, area=BOX_TO_OKS_AREA, sigmas=_BODY_SIGMAS)
        larger = np.maximum(theirs.sum(axis=1), view.visible.sum())
        comparable = 2 * both.sum(axis=1) >= larger
        alike: Bools = (larger < MIN_BODY_KEYPOINTS) | (comparable & (similarity >= SAME_POSTURE_OKS))
        return alike

    def remember(self, view: _View, now: float) -> tuple[int, int]:
        """:return: the place in memory and its generation, for `forget`."""
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
