"""Test cards: pictures of schematic figures whose keypoints are known to the pixel.

A card shows up to `MAX_PERSONS` figures. Each figure stands on a white panel in a frame of its own colour, and each of
its 133 keypoints is a dot of its own colour. `model` builds the two networks that read such a card. Coordinates are
pixel indices: (0, 0) is the centre of the upper left pixel. Colours are RGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.errors import InvalidRequest
from detector.pose import images
from detector.pose.images import Image
from detector.pose.skeleton import BODY_EDGES, FEET_EDGES, HAND_EDGES, KEYPOINT_COUNT, KEYPOINT_INDEX

Colour = tuple[int, int, int]

PANEL_WIDTH: Final = 150.0
PANEL_HEIGHT: Final = 200.0
"""Size of a figure in units; the aspect ratio is that of the pose estimator's input (192×256)."""
DOT_RADIUS: Final = 4.0
FRAME_THICKNESS: Final = 6.0
"""Size of dots and frames, in units of the panel."""
MIN_HEIGHT: Final = 150
"""Smallest height of a figure that stays readable after JPEG at quality 90, in pixels."""

PANEL_COLOUR: Final[Colour] = (255, 255, 255)
LIMB_COLOUR: Final[Colour] = (232, 232, 232)

FRAME_COLOURS: Final[tuple[Colour, ...]] = (
    (255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 0),
    (255, 102, 0), (0, 102, 255), (153, 0, 255), (0, 255, 153), (255, 0, 102), (102, 255, 0),
)  # fmt: skip
MAX_PERSONS: Final = len(FRAME_COLOURS)


@cache
def dot_colours() -> NDArray[np.int64]:
    """Return the colour of each keypoint's dot, shape (133, 3), RGB, on a grid of six levels per channel.

    Excluded are greys (panel, limbs and letterbox bars are grey), the colours of frames, and colours close to these. Of
    the others, those far from white are taken first, since the rim of a dot blends with the panel.
    """
    levels = np.arange(0, 256, 51)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing='ij'), axis=-1).reshape(-1, 3)
    saturation = grid.max(axis=1) - grid.min(axis=1)
    frames = np.array(FRAME_COLOURS)
    to_frame = np.linalg.norm(grid[:, None] - frames[None], axis=-1).min(axis=1)
    usable = grid[(saturation > 0) & (to_frame > 50)]
    to_white = np.linalg.norm(usable - 255, axis=1)
    chosen = usable[np.argsort(-to_white, kind='stable')[:KEYPOINT_COUNT]]
    # A coprime stride through the sorted colours gives neighbouring dots dissimilar colours.
    return np.asarray(chosen[(np.arange(KEYPOINT_COUNT) * 50) % KEYPOINT_COUNT])


@cache
def layout() -> NDArray[np.float32]:
    """Return the keypoints on the 150×200 panel, shape (133, 2): x, y. Any two are at least 9 units apart."""
    points = np.zeros((KEYPOINT_COUNT, 2), dtype=np.float32)
    body = {
        'nose': (75, 62), 'left_eye': (100, 37), 'right_eye': (50, 37), 'left_ear': (137, 30), 'right_ear': (13, 30),
        'left_shoulder': (114, 118), 'right_shoulder': (36, 118), 'left_elbow': (123, 126), 'right_elbow': (27, 126),
        'left_wrist': (132, 134), 'right_wrist': (18, 134), 'left_hip': (87, 132), 'right_hip': (63, 132),
        'left_knee': (87, 144), 'right_knee': (63, 144), 'left_ankle': (87, 156), 'right_ankle': (63, 156),
        'left_heel': (87, 166), 'right_heel': (63, 166), 'left_big_toe': (80, 176), 'right_big_toe': (70, 176),
        'left_small_toe': (90, 176), 'right_small_toe': (60, 176),
    }  # fmt: skip
    for name, position in body.items():
        points[KEYPOINT_INDEX[name]] = position
    points[23:91] = _face()
    points[112:133] = _hand()
    points[91:112] = _hand() * (-1, 1) + (PANEL_WIDTH, 0)
    return points


def _jaw() -> list[list[float]]:
    """Return 17 points from ear to ear: half a superellipse, wide enough for the lips."""
    angles = np.radians(np.linspace(180, 0, 17))
    x = np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** 0.6
    return [[75 + 52 * float(a), 30 + 94 * float(b)] for a, b in zip(x, np.sin(angles), strict=True)]


def _eye(x: float, y: float) -> list[list[float]]:
    angles = np.radians(np.arange(180, 540, 60))
    return [[x + 10.5 * float(np.cos(angle)), y + 10.5 * float(np.sin(angle))] for angle in angles]


def _face() -> NDArray[np.float32]:
    """Return the 68 points in iBUG order. The person's right side is on the left of the picture."""
    lips = (75.0, 97.5)
    outer = ((-33, 0), (-24, -9), (-12, -14), (0, -16), (12, -14), (24, -9),
             (33, 0), (24, 9), (12, 14), (0, 16), (-12, 14), (-24, 9))  # fmt: skip
    inner = ((-22, 0), (-11, -4.5), (0, -5), (11, -4.5), (22, 0), (11, 4.5), (0, 5), (-11, 4.5))
    points = [
        *_jaw(),
        *([31.5 + 9.5 * i, y] for i, y in enumerate((20, 16, 13.5, 14, 15))),
        *([80.5 + 9.5 * i, y] for i, y in enumerate((15, 14, 13.5, 16, 20))),
        *([75, 24 + 9.5 * i] for i in range(4)),
        *([56 + 9.5 * i, 71.5] for i in range(5)),
        *_eye(50, 37),
        *_eye(100, 37),
        *([lips[0] + x, lips[1] + y] for x, y in (*outer, *inner)),
    ]
    return np.array(points, dtype=np.float32)


def _hand() -> NDArray[np.float32]:
    """Return the 21 points of the right hand: root, then four joints per finger, thumb towards the body."""
    fingers = [(50 - 9.5 * finger, 151 + 9.5 * joint) for finger in range(5) for joint in range(4)]
    return np.array([(31, 141), *fingers], dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure on a card.

    :param x: left edge of its frame in pixels.
    :param y: upper edge of its frame in pixels.
    :param height: height of its frame in pixels; the width is 3/4 of it.
    :param fading: shape (133,), 0..1: how far each dot shrinks; 0 is full size, 1 is absent.
    """

    x: float
    y: float
    height: float
    fading: NDArray[np.float32] | None = None

    @property
    def scale(self) -> float:
        """Pixels per unit of the panel."""
        return self.height / PANEL_HEIGHT

    @property
    def box(self) -> NDArray[np.float32]:
        width = PANEL_WIDTH * self.scale
        return np.array([self.x, self.y, self.x + width, self.y + self.height], dtype=np.float32)

    @property
    def keypoints(self) -> NDArray[np.float32]:
        """Keypoints of the figure, shape (133, 2): x, y in pixels."""
        return layout() * np.float32(self.scale) + self.box[:2]


_SHIFT: Final = 6
"""Number of fractional bits in the coordinates given to OpenCV."""


def draw_card(background: Image, figures: Sequence[Figure]) -> Image:
    """Draw figures on a copy of a background.

    :param background: RGB uint8, H×W×3.
    :raises ValueError: there are more than `MAX_PERSONS` figures.
    """
    if len(figures) > MAX_PERSONS:
        raise ValueError(f'a card shows up to {MAX_PERSONS} persons, not {len(figures)}')
    image = background.copy()
    for person, colour in zip(figures, FRAME_COLOURS, strict=False):
        _draw_figure(image, person, colour)
    return image


def _draw_figure(image: Image, person: Figure, colour: Colour) -> None:
    x1, y1, x2, y2 = (round(float(value)) for value in person.box)
    thickness = max(1, round(FRAME_THICKNESS * person.scale))
    cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), colour, cv2.FILLED)
    cv2.rectangle(
        image, (x1 + thickness, y1 + thickness), (x2 - 1 - thickness, y2 - 1 - thickness), PANEL_COLOUR, cv2.FILLED
    )
    centres = np.round(person.keypoints * (1 << _SHIFT)).astype(int).tolist()
    limb = max(1, round(2 * person.scale))
    for a, b in (*BODY_EDGES, *FEET_EDGES, *HAND_EDGES):
        cv2.line(image, centres[a], centres[b], LIMB_COLOUR, limb, cv2.LINE_AA, _SHIFT)
    fading = np.zeros(KEYPOINT_COUNT) if person.fading is None else person.fading
    for centre, dot, fade in zip(centres, dot_colours().tolist(), fading, strict=True):
        radius = round(DOT_RADIUS * person.scale * (1 - float(fade)) * (1 << _SHIFT))
        if radius > 0:
            cv2.circle(image, centre, radius, dot, cv2.FILLED, cv2.LINE_AA, _SHIFT)


def arrange(count: int, size: tuple[int, int]) -> list[Figure]:
    """Place figures in rows, as large as possible, with gaps wide enough for the person detector.

    :param size: width, height of the card in pixels.
    :raises ValueError: the figures would be too small to be read.
    """
    if count == 0:
        return []
    width, height = size
    columns = max(range(1, count + 1), key=lambda n: _cell(n, count, size))
    cell = _cell(columns, count, size)
    if cell * 0.8 < MIN_HEIGHT:
        raise ValueError(f'{count} figures do not fit on {width}×{height} pixels')
    rows = -(-count // columns)
    left, top = (width - columns * cell * 0.75) / 2, (height - rows * cell) / 2
    return [
        Figure(
            x=round(left + (index % columns) * cell * 0.75 + cell * 0.075),
            y=round(top + (index // columns) * cell + cell * 0.1),
            height=cell * 0.8,
        )
        for index in range(count)
    ]


def _cell(columns: int, count: int, size: tuple[int, int]) -> float:
    """Return the height of a 3:4 grid cell with this number of columns."""
    return min(size[0] / columns / 0.75, size[1] / -(-count // columns))


def write_card(path: Path, *, persons: int, size: tuple[int, int], background: Path | None = None) -> None:
    """Draw a card into an image file.

    :param size: width, height in pixels.
    :param background: picture to draw on; None for light grey.
    :raises WholebodyError: the figures do not fit, or the background is not an image.
    """
    width, height = size
    if background is None:
        canvas = np.full((height, width, 3), 200, dtype=np.uint8)
    else:
        canvas = np.asarray(cv2.resize(images.decode_image(background.read_bytes()), size), dtype=np.uint8)
    try:
        picture = draw_card(canvas, arrange(persons, size))
    except ValueError as error:
        raise InvalidRequest(str(error)) from None
    images.write_image(path, picture)
