"""The pose estimator of the starter model: MediaPipe's networks composed into one graph of RTMW's form.

Input `input` (N, 3, 512, 384): the surroundings of a person's box, RGB, normalised as for RTMW. Outputs `simcc_x`
(N, 133, 768) and `simcc_y` (N, 133, 1024): per keypoint a peak at its place, two bins per pixel, as high as its
confidence. The graph looks for the person (`_find_person`), then for the body (`_look_at_body`), and from there for the
hands and the face, each of them twice: the first look places the region of the second.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx

from detector.models.package import IMAGENET_MEAN, IMAGENET_STD
from detector.pose.skeleton import KEYPOINT_COUNT

from . import layout, sources
from .graph import Graph, Tensor, concat, where
from .network import Network
from .regions import Region, between, bounds, direction, dot, middle, turned_right
from .sources import Source

WIDTH: Final = 384
HEIGHT: Final = 512
"""Size of the input in pixels."""
BINS_PER_PIXEL: Final = 2
"""Resolution of the SimCC rows, as in the published models."""
PEAK_SIGMA: Final = 3.0
"""Standard deviation of the peaks in the SimCC rows, in bins."""

START_SIDE: Final = 0.92
"""Side of the region that is looked at first, in sides of the input; the input shows 1.25 times the person's box."""
DETECTOR_SIDE: Final = 1.05
"""Side of the region that the pose detector looks at, in sides of the first region."""
DETECTOR_STRIDES: Final = ((8, 2), (16, 2), (32, 6))
"""Stride in pixels and anchors per cell of the pose detector's levels, from MediaPipe's pose_detection_cpu.pbtxt."""
BODY_SCALE: Final = 2.5
"""Side of a body's region in radii of the circle around it: MediaPipe's 1.25 of the diameter."""
MIDDLE_TOLERANCE: Final = 0.3
"""Distance of a person from the middle of the input, in halves of its width, from which it counts as a neighbour."""
NEIGHBOUR_PENALTY: Final = 8.0
"""Decrease of a neighbour's score (logit) per half of the input's width."""
WHOLE_SIDE: Final = 0.9
"""Smallest expected side of a body's region, in sides of the first region: the input shows a person's box, and the
region of a body is larger than the part of it that is seen."""
SMALLNESS_PENALTY: Final = 10.0
"""Decrease of the score (logit) of a smaller body, per natural logarithm of the ratio of the sides."""

SMALL_TOE: Final = 0.12
"""Place of the small toe, which no network finds, on the way from the big toe to the heel."""
SMALL_TOE_CONFIDENCE: Final = 0.6
"""Its confidence, in confidences of the big toe."""

FACE_SHIFTS: Final = (0.0, 0.6, 1.2)
"""Distances below the head at which a face is looked for, in sides of the head."""
ASTRAY: Final = 0.001
"""Factor for the presence of a part that was found elsewhere on the picture; not 0, so that its points keep a place."""


def build_estimator(read: Callable[[Source], bytes] = sources.read_network) -> onnx.ModelProto:
    """Build the graph.

    :param read: returns the tflite file of a network.
    :raises StarterUnavailable: a network is missing or contains something that has no conversion.
    """
    graph = Graph()
    normalised = graph.input('input', ['n', 3, HEIGHT, WIDTH])
    std, mean = (graph.floats(values.reshape(1, 3, 1, 1) / 255) for values in (IMAGENET_STD, IMAGENET_MEAN))
    keypoints, confidences = _Estimator(graph, normalised * std + mean, read).keypoints()
    for axis, (name, size) in enumerate((('simcc_x', WIDTH), ('simcc_y', HEIGHT))):
        bins = graph.floats(np.arange(BINS_PER_PIXEL * size))
        distance = (bins - BINS_PER_PIXEL * keypoints.slice(2, axis, axis + 1)) / PEAK_SIGMA
        peaks = (distance * distance * -0.5).exp() * confidences
        graph.output(name, peaks, ['n', KEYPOINT_COUNT, BINS_PER_PIXEL * size])
    return graph.model('starter_estimator')


@dataclass(frozen=True, slots=True, kw_only=True)
class _Body:
    """What the pose network sees in a region.

    :param points: 39 points, (N, 39, 2).
    :param visibility: probability that each point is visible, (N, 39, 1).
    :param presence: probability that there is a person, (N, 1, 1).
    """

    points: Tensor
    visibility: Tensor
    presence: Tensor

    def point(self, index: int) -> Tensor:
        return self.points.point(index)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A face or the hands.

    :param points: (N, K, 2).
    :param presence: probability that there is such a part, (N, 1, 1).
    """

    points: Tensor
    presence: Tensor

    def or_second(self, second: '_Part') -> '_Part':
        """Return the second look where it is about as sure as the first, else the first."""
        return self.or_other(second, second.presence > self.presence * 0.9)

    def or_other(self, other: '_Part', better: Tensor) -> '_Part':
        """Return the other look where it is better, else this one, with the higher presence of both."""
        points = where(better, other.points, self.points)
        return _Part(points=points, presence=self.presence.at_least(other.presence))

    def only_near(self, index: int, place: Tensor, reach: Tensor) -> '_Part':
        """Return the part; it is absent where one of its points is too far from its place on the body."""
        distance = (self.points.point(index) - place).length()
        absent = self.presence * ASTRAY
        return _Part(points=self.points, presence=where(distance < reach, self.presence, absent))


class _Estimator:
    """The steps from the image to the keypoints.

    :param image: (N, 3, height, width), RGB, 0..1.
    """

    def __init__(self, graph: Graph, image: Tensor, read: Callable[[Source], bytes]) -> None:
        self._graph = graph
        self._image = image
        self._pose_detector = Network(graph, read(sources.POSE_DETECTOR), outputs=(0, 1))
        self._pose = Network(graph, read(sources.POSE), outputs=(0, 1))
        self._hand_recrop = Network(graph, read(sources.HAND_RECROP), outputs=(0,))
        self._hand = Network(graph, read(sources.HAND), outputs=(0, 1))
        self._face = Network(graph, read(sources.FACE), outputs=(0, 1))

    def keypoints(self) -> tuple[Tensor, Tensor]:
        """Return the 133 keypoints (N, 133, 2) in pixels of the input, and their confidences (N, 133, 1)."""
        body = self._look_at_body(self._find_person(self._whole_input()))
        left, right = self._look_at_hands(body)
        face = self._look_at_face(body)
        feet, feet_visibility = _feet(body)
        visibility = concat([body.visibility.take(1, layout.BODY), feet_visibility], axis=1)
        keypoints = [_body_keypoints(body, face), feet, face.points.take(1, layout.FACE_68), left.points, right.points]
        presences = [
            visibility,
            self._repeated(face.presence, len(layout.FACE_68)),
            self._repeated(left.presence, layout.HAND_POINTS),
            self._repeated(right.presence, layout.HAND_POINTS),
        ]
        return concat(keypoints, axis=1), concat(presences, axis=1) * body.presence

    def _whole_input(self) -> Region:
        """Return the region around the middle of the input, upright."""
        nothing = self._image.slice(1, 0, 1).slice(2, 0, 1).slice(3, 0, 1).reshape(-1, 1, 1) * 0  # (N, 1, 1)
        return Region(
            centre=nothing + self._graph.floats([[[WIDTH / 2, HEIGHT / 2]]]),
            side=nothing + START_SIDE * max(WIDTH, HEIGHT),
            up=nothing + self._graph.floats([[[0.0, -1.0]]]),
        )

    def _find_person(self, start: Region) -> Region:
        """Return the region of the person in the middle, as the pose detector sees it; else the start.

        It helps with persons cut off at the waist and persons upside down. Of several persons the one in the middle
        wins, not the most certain one: bodies off the middle and small ones lose score.
        """
        region = start.scaled(DETECTOR_SIDE)
        size = self._pose_detector.size
        values, logits = self._pose_detector(self._crop(region, size, beyond='zeros') * 2 - 1)
        anchors = self._graph.floats(_anchors(size))  # (1, anchors, 2)
        points = values.reshape(-1, _anchors(size).shape[1], 12)
        box_centre, hip, circle = (points.slice(2, first, first + 2) + anchors for first in (0, 4, 6))
        middle_x = middle(box_centre, hip).slice(2, 0, 1)
        off_centre = (middle_x / size - 0.5).abs() * 2 * region.side / WIDTH
        scale = (circle - hip).length() * (
            BODY_SCALE * DETECTOR_SIDE / size
        )  # side of each body, in sides of the start
        smallness = (WHOLE_SIDE / scale.at_least(1e-3)).log().at_least(0.0)
        scores = logits.clip(-30, 30) - (off_centre - MIDDLE_TOLERANCE).at_least(0.0) * NEIGHBOUR_PENALTY
        scores = scores - smallness * SMALLNESS_PENALTY
        best = scores.argmax(1)  # (N, 1, 1)
        person = _around(*(region.to_image(self._chosen(points, best), size) for points in (hip, circle)))
        plausible = (scores.max(1) > 0.0) & between(person.side, start.side * 0.3, start.side * 6.0)
        return person.if_(plausible, otherwise=start)

    def _look_at_body(self, region: Region) -> _Body:
        """Return what the pose network sees in two looks; the first answer names the region of the second.

        The mean of both, weighted by presence, is more accurate than either.
        """
        first = self._body(region)
        closer = _around(first.point(layout.MID_HIP), first.point(layout.FULL_BODY))
        plausible = between(closer.side, region.side * 0.35, region.side * 2.0)
        second = self._body(closer.if_(plausible, otherwise=region))
        share = second.presence / (first.presence + second.presence + 1e-6)
        return _Body(
            points=first.points + (second.points - first.points) * share,
            visibility=first.visibility + (second.visibility - first.visibility) * share,
            presence=first.presence.at_least(second.presence),
        )

    def _body(self, region: Region) -> _Body:
        size = self._pose.size
        values, presence = self._pose(self._crop(region, size, beyond='zeros'))
        points = values.reshape(-1, layout.POSE_POINTS, 5)  # x, y, z, visibility, presence of each point
        return _Body(
            points=region.to_image(points.slice(2, 0, 2), size),
            visibility=points.slice(2, 3, 4).sigmoid(),
            presence=presence.reshape(-1, 1, 1),
        )

    def _look_at_hands(self, body: _Body) -> tuple[_Part, _Part]:
        """Return the left and the right hand. Both are computed as one batch: all left hands, then all right ones."""
        wrist, pinky, index = (
            concat([body.point(side) for side in sides], axis=0)
            for sides in (layout.WRISTS, layout.PINKIES, layout.INDEX_FINGERS)
        )
        palm = (index * 2 + pinky) / 3
        reach = (palm - wrist).length()
        image = concat([self._image, self._image], axis=0)
        region = Region(centre=palm, side=reach * 5.4 + 4.0, up=direction(wrist, palm))
        region = self._recropped(image, region)
        first = self._hands(image, region)
        fitted = _around_hand(first.points).if_(first.presence > 0.3, otherwise=region)
        second = self._hands(image, fitted.widened(1.0))
        hands = first.or_second(second).only_near(layout.HAND_WRIST, wrist, reach * 1.8 + 4.0)
        points = hands.points.reshape(2, -1, layout.HAND_POINTS, 2)
        presence = hands.presence.reshape(2, -1, 1, 1)
        left, right = (
            _Part(
                points=points.slice(0, side, side + 1).reshape(-1, layout.HAND_POINTS, 2),
                presence=presence.slice(0, side, side + 1).reshape(-1, 1, 1),
            )
            for side in range(2)
        )
        return left, right

    def _recropped(self, image: Tensor, region: Region) -> Region:
        """Return the region that the recrop network proposes for a hand, if it is plausible."""
        size = self._hand_recrop.size
        (values,) = self._hand_recrop(self._crop(region, size, beyond='border', image=image))
        points = region.to_image(values.reshape(-1, 2, 2), size)
        centre, edge = points.point(0), points.point(1)
        proposed = Region(centre=centre, side=(edge - centre).length() * 2 + 2.0, up=direction(centre, edge))
        return proposed.if_(between(proposed.side, region.side * 0.3, region.side * 2.0), otherwise=region)

    def _hands(self, image: Tensor, region: Region) -> _Part:
        size = self._hand.size
        values, presence = self._hand(self._crop(region, size, beyond='border', image=image))
        points = values.reshape(-1, layout.HAND_POINTS, 3).slice(2, 0, 2)
        return _Part(points=region.to_image(points, size), presence=presence.reshape(-1, 1, 1))

    def _look_at_face(self, body: _Body) -> _Part:
        """Return the face, looked for at the head and below it, then looked at upright.

        With another person close behind, the pose network puts the head between both heads; the face network is sure
        of the right one only.
        """
        centre, head = bounds(body.points.slice(1, *layout.HEAD))
        mouth, eyes = (middle(body.point(left), body.point(right)) for left, right in (layout.MOUTH, layout.EYES))
        up = direction(mouth, eyes)
        first, *lower = (
            self._faces(Region(centre=centre - up * (head * shift), side=head * 1.9 + 4.0, up=up))
            for shift in FACE_SHIFTS
        )
        for other in lower:
            first = first.or_other(other, other.presence > first.presence + 0.1)
        right_eye, left_eye = (first.points.point(index) for index in layout.FACE_EYE_CORNERS)
        centre, side = bounds(first.points)
        up = -turned_right(direction(right_eye, left_eye))
        second = self._faces(Region(centre=centre, side=side * 1.5 + 1.0, up=up))
        face = first.or_second(second)
        return face.only_near(layout.FACE_NOSE_TIP, body.point(layout.NOSE), head * 1.2 + 4.0)

    def _faces(self, region: Region) -> _Part:
        size = self._face.size
        values, logit = self._face(self._crop(region, size, beyond='border'))
        points = values.reshape(-1, layout.FACE_POINTS, 3).slice(2, 0, 2)
        return _Part(points=region.to_image(points, size), presence=logit.reshape(-1, 1, 1).sigmoid())

    def _crop(self, region: Region, size: int, *, beyond: str, image: Tensor | None = None) -> Tensor:
        image = self._image if image is None else image
        return region.crop(image, size, image_size=(WIDTH, HEIGHT), beyond=beyond)

    def _chosen(self, values: Tensor, index: Tensor) -> Tensor:
        """Return the row of (N, K, 2) that an index (N, 1, 1) names, (N, 1, 2)."""
        both = concat([index, index], axis=2)
        return self._graph.add('GatherElements', values, both, axis=1)

    def _repeated(self, presence: Tensor, count: int) -> Tensor:
        """Return (N, 1, 1) as (N, count, 1)."""
        return presence * self._graph.floats(np.ones((1, count, 1)))


def _anchors(size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the places that the pose detector's values are relative to, in pixels of its input, (1, anchors, 2)."""
    levels = []
    for stride, count in DETECTOR_STRIDES:
        middles = (np.arange(size // stride) + 0.5) * stride
        x, y = np.meshgrid(middles, middles)
        levels.append(np.stack([x, y], axis=-1).reshape(-1, 2).repeat(count, axis=0))
    return np.concatenate(levels)[None]


def _around(hip: Tensor, circle: Tensor) -> Region:
    """Return the region of a body with the given middle of the hips and point on the circle around it."""
    return Region(centre=hip, side=(circle - hip).length() * BODY_SCALE, up=direction(hip, circle))


def _around_hand(points: Tensor) -> Region:
    """Return the region around the points of a hand, with the fingers up."""
    index, middle_finger, ring = (points.point(knuckle) for knuckle in layout.HAND_KNUCKLES)
    up = direction(points.point(layout.HAND_WRIST), index * 0.25 + middle_finger * 0.5 + ring * 0.25)
    mean = points.mean(1)
    right = turned_right(up)
    across, along = dot(points - mean, right), dot(points - mean, up)
    (left, right_end), (low, high) = ((values.min(1), values.max(1)) for values in (across, along))
    extent = (right_end - left).at_least(high - low)
    centre = mean + right * middle(left, right_end) + up * (middle(low, high) + extent * 0.05)
    return Region(centre=centre, side=extent * 2, up=up)


def _body_keypoints(body: _Body, face: _Part) -> Tensor:
    """Return the 17 keypoints of the body; those of the head come from the face, if there is one, which is closer."""
    keypoints = body.points.take(1, layout.BODY)
    ends = (face.points.take(1, points) for points in zip(*layout.FACE_HEAD, strict=True))
    count = len(layout.FACE_HEAD)
    head = where(face.presence > 0.5, middle(*ends), keypoints.slice(1, 0, count))
    return concat([head, keypoints.slice(1, count, len(layout.BODY))], axis=1)


def _feet(body: _Body) -> tuple[Tensor, Tensor]:
    """Return big toe, small toe and heel of the left and the right foot, (N, 6, 2), and their visibility."""
    points, visibility = [], []
    for big_toe, heel in zip(layout.BIG_TOES, layout.HEELS, strict=True):
        toe, back = body.point(big_toe), body.point(heel)
        points += [toe, toe + (back - toe) * SMALL_TOE, back]
        seen, back_seen = (body.visibility.point(index) for index in (big_toe, heel))
        visibility += [seen, seen * SMALL_TOE_CONFIDENCE, back_seen]
    return concat(points, axis=1), concat(visibility, axis=1)
