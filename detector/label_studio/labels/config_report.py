"""What a labeling config offers for poses, in words and as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from detector.pose.skeleton import KEYPOINT_COUNT, KEYPOINT_NAMES, PERSON
from detector.wording import counted

from .config import LabelingConfig
from .controls import Label
from .tasks import keypoints_of

_SHOWN: Final = 8
"""Labels or keypoints that a short report names."""


def report(config: LabelingConfig, *, full: bool = False) -> list[str]:
    """Return lines that say which labels of a config stand for what, and which stand for nothing.

    :param full: True to name all labels and keypoints.
    """
    lines = [_boxes(config)]
    skeletons, points = config.skeletons, config.points
    if skeletons is not None:
        parts = (f'{label.text} ({counted(len(indices), "keypoint")})' for label, indices in skeletons.read.items())
        lines.append(f'skeletons: {", ".join(parts)}')
    if points is not None and points.is_generic:
        lines.append(f'keypoints: the label {points.written[0].text} stands for all {KEYPOINT_COUNT}')
    elif points is not None:
        pairs = [_pair(label.text, KEYPOINT_NAMES[index]) for index, label in points.written.items()]
        lines.append(f'{counted(len(pairs), "label")} for keypoints: {_listed(pairs, full)}')
    unknown = unmatched(config)
    if unknown:
        verb = 'stands' if len(unknown) == 1 else 'stand'
        lines.append(
            f'{counted(len(unknown), "label")} {verb} for no keypoint; they are neither predicted nor read: '
            f'{_listed([label.text for label in unknown], full)}'
        )
    missing = [name for name, offered in zip(KEYPOINT_NAMES, keypoints_of(config), strict=True) if not offered]
    if 0 < len(missing) < KEYPOINT_COUNT:
        lines.append(f'{counted(len(missing), "keypoint")} without a label: {_listed(missing, full)}')
    return lines


def unmatched(config: LabelingConfig) -> list[Label]:
    """Return the labels for keypoints and skeletons that stand for none."""
    controls = (config.points, config.skeletons)
    return [label for control in controls if control is not None for label in control.unknown]


def offer(config: LabelingConfig) -> dict[str, Any]:
    """Return what a config offers as JSON, for `/validate`."""
    points, skeletons = config.points, config.skeletons
    return {
        'image': config.image_key,
        'boxes': config.boxes is not None,
        'skeletons': [] if skeletons is None else [label.text for label in skeletons.written],
        'keypoints': 0 if points is None else len(points.written),
        'labels': {} if points is None else _names(points.read),
        'unmatched': [label.text for label in unmatched(config)],
        'report': report(config),
    }


def _names(read: Mapping[Label, int]) -> dict[str, str]:
    return {label.text: KEYPOINT_NAMES[index] for label, index in read.items()}


def _boxes(config: LabelingConfig) -> str:
    boxes = config.boxes
    if boxes is None:
        return 'boxes: none'
    why = ', since it is the only label of the only RectangleLabels' if boxes.is_guess else ''
    return f'boxes: the label {boxes.written.text} stands for a {PERSON}{why}'


def _pair(text: str, name: str) -> str:
    return name if text == name else f'{text} = {name}'


def _listed(names: Sequence[str] | Iterable[str], full: bool) -> str:
    names = list(names)
    shown = names if full else names[:_SHOWN]
    more = f' and {len(names) - len(shown)} more' if len(shown) < len(names) else ''
    return ', '.join(shown) + more
