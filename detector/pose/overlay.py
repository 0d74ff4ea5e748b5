"""Drawing of skeletons over images."""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np

from .images import Image
from .pose import Pose
from .skeleton import DRAWN_EDGES, KEYPOINT_COUNT, part_of

_PART_OF: Final = tuple(part_of(index) for index in range(KEYPOINT_COUNT))
_BOX_COLOUR: Final = (255, 225, 25)
_SHIFT: Final = 4
"""Number of fractional bits in the coordinates given to OpenCV."""


def draw_poses(image: Image, poses: Sequence[Pose], *, confidence_threshold: float = 0.3) -> Image:
    """Draw boxes, limbs and keypoints on a copy of an image, in the colours of the parts.

    :param image: RGB uint8, H×W×3.
    :param poses: poses in that image.
    :param confidence_threshold: keypoints with a lower confidence, and limbs that end in one, are not drawn.
    :return: RGB uint8, H×W×3.

    >>> image = read_image('photo.jpg')
    >>> poses = PoseEngine(open_package(installed_package())).poses(image)
    >>> write_image('skeletons.jpg', draw_poses(image, poses))
    """
    canvas = image.copy()
    for pose in poses:
        _draw_pose(canvas, pose, confidence_threshold)
    return canvas


def _draw_pose(canvas: Image, pose: Pose, threshold: float) -> None:
    x1, y1, x2, y2 = (round(float(value)) for value in pose.box)
    unit = max(1, round(max(x2 - x1, y2 - y1) / 300))
    cv2.rectangle(canvas, (x1, y1), (x2, y2), _BOX_COLOUR, unit, cv2.LINE_AA)
    visible = pose.confidences >= threshold
    points = np.round(pose.keypoints * (1 << _SHIFT)).astype(int).tolist()
    for a, b in DRAWN_EDGES:
        if visible[a] and visible[b]:
            cv2.line(canvas, points[a], points[b], _PART_OF[b].colour, unit, cv2.LINE_AA, _SHIFT)
    for point, part, shown in zip(points, _PART_OF, visible, strict=True):
        if shown:
            radius = (2 * unit if part.name in ('body', 'feet') else unit) << _SHIFT
            cv2.circle(canvas, point, radius, part.colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)
