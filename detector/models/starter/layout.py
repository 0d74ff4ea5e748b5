"""Correspondence of MediaPipe's points to the 133 keypoints, and the points that place regions.

The pose network answers 39 points: the 33 of BlazePose (Bazarevsky et al., 2020) and 6 that describe the region. The
face network answers 468 points (Kartynnik et al., 2019), the hand network 21, in the order of COCO-WholeBody.
"""

from typing import Final

POSE_POINTS: Final = 39
FACE_POINTS: Final = 468
HAND_POINTS: Final = 21

NOSE: Final = 0
EYES: Final = (2, 5)
MOUTH: Final = (9, 10)
HEAD: Final = (0, 11)
"""First and last (exclusive) of the pose points on the head."""
WRISTS: Final = (15, 16)
PINKIES: Final = (17, 18)
INDEX_FINGERS: Final = (19, 20)
HEELS: Final = (29, 30)
BIG_TOES: Final = (31, 32)
MID_HIP: Final = 33
FULL_BODY: Final = 34
"""Point on the circle around the whole body, whose centre is the middle of the hips. It lies above the head."""
BODY: Final = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
"""The 17 body keypoints among the pose points."""

FACE_NOSE_TIP: Final = 1
FACE_HEAD: Final = ((4, 4), (263, 362), (33, 133), (454, 454), (234, 234))
"""Pairs of face points between which nose, left eye, right eye, left ear and right ear lie."""
FACE_EYE_CORNERS: Final = (33, 263)
"""Outer corners of the person's right and left eye."""
FACE_68: Final = (
    *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),  # jaw
    *(71, 63, 105, 66, 107),  # right eyebrow
    *(336, 296, 334, 293, 301),  # left eyebrow
    *(168, 197, 5, 4),  # bridge of the nose
    *(75, 97, 2, 326, 305),  # lower edge of the nose
    *(33, 160, 158, 133, 153, 144),  # right eye
    *(362, 385, 387, 263, 373, 380),  # left eye
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer edge of the lips
    *(78, 82, 13, 312, 308, 317, 14, 87),  # inner edge of the lips
)
"""The 68 face keypoints among the face points."""

HAND_WRIST: Final = 0
HAND_KNUCKLES: Final = (5, 9, 13)
"""Knuckles of the index, middle and ring finger."""
