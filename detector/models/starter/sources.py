"""The networks that the starter model is built from: files of an installed distribution, which is never imported."""

import hashlib
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from detector.errors import StarterUnavailable

DISTRIBUTION: Final = 'mediapipe'
VERSION: Final = '0.10.21'
"""Version of the distribution that the group `starter` installs; on Linux on ARM it is 0.10.18, with the same files."""
LICENCE: Final = 'Apache-2.0'

_NO_WHEEL_FROM: Final = (3, 13)
"""First version of Python that the distribution has no wheel for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file of the distribution.

    :param path: path below `mediapipe/modules/`.
    :param sha256: SHA-256 of its content, hexadecimal.
    """

    path: str
    sha256: str


POSE_DETECTOR: Final = Source(
    path='pose_detection/pose_detection.tflite',
    sha256='9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c',
)
POSE: Final = Source(
    path='pose_landmark/pose_landmark_full.tflite',
    sha256='e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f',
)
HAND_RECROP: Final = Source(
    path='holistic_landmark/hand_recrop.tflite',
    sha256='67d996ce96f9d36fe17d2693022c6da93168026ab2f028f9e2365398d8ac7d5d',
)
HAND: Final = Source(
    path='hand_landmark/hand_landmark_full.tflite',
    sha256='11c272b891e1a99ab034208e23937a8008388cf11ed2a9d776ed3d01d0ba00e3',
)
FACE: Final = Source(
    path='face_landmark/face_landmark.tflite',
    sha256='1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814',
)
NETWORKS: Final = (POSE_DETECTOR, POSE, HAND_RECROP, HAND, FACE)


def read_network(source: Source) -> bytes:
    """Return the content of a network's file.

    :raises StarterUnavailable: the distribution is not installed, or lacks the file, or holds another one.
    """
    found = _installed()
    path = Path(str(found.locate_file(f'mediapipe/modules/{source.path}')))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StarterUnavailable(
            f'the starter model needs {path}, which cannot be read ({error.strerror}): mediapipe {found.version} is '
            f'installed, {VERSION} is needed; {_remedy()}'
        ) from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != source.sha256:
        raise StarterUnavailable(
            f'{path} of mediapipe {found.version} is not the file that the starter model is built from: its sha256 is '
            f'{actual}, {source.sha256} is expected; {_remedy()}'
        )
    return content


def read_licence() -> str:
    """Return the text of the distribution's licence.

    :raises StarterUnavailable: the distribution is not installed, or lacks it.
    """
    found = _installed()
    text = found.read_text('LICENSE') or found.read_text('licenses/LICENSE')
    if text is None:
        raise StarterUnavailable(f'mediapipe {found.version} is installed without its LICENSE; {_remedy()}')
    return text


def installed_version() -> str:
    """Return the version of the installed distribution.

    :raises StarterUnavailable: it is not installed.
    """
    return _installed().version


def _installed() -> Distribution:
    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise StarterUnavailable(
            f'the starter model is built from files of the package mediapipe, which is not installed; {_remedy()}'
        ) from None


def _remedy() -> str:
    """Return the command that installs the distribution."""
    if sys.version_info >= _NO_WHEEL_FROM:
        running = f'{sys.version_info.major}.{sys.version_info.minor}'
        return f'it has no wheel for Python {running}: run `uv run --python 3.12 wholebody serve`'
    return (
        'run `uv sync --reinstall-package mediapipe`, or without uv '
        f'`pip install --no-deps --force-reinstall mediapipe=={VERSION}`'
    )
