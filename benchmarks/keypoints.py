"""Measure how right the keypoints of packages are on annotated photographs, part by part, given the true boxes.

    uv run python -m benchmarks.keypoints ANNOTATIONS [--images FOLDER] [--packages starter,balanced.zip]
        [--plot reliability.png]

ANNOTATIONS is a COCO or COCO-WholeBody file. The similarity (OKS) is COCO's, with the annotated area of a person, else
0.53 of the box as in mmpose. The detector of a package is measured apart: a box finds a person from an IoU of 0.5 on. A
keypoint is right if its own similarity is at least 0.5. With one column per package, the command shows what another
model gains over the starter model.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.datasets.coco import read_coco
from detector.datasets.labelled_image import LabelledImage
from detector.datasets.person import Person
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.models.package import ModelPackage, open_package, unpack_package
from detector.models.starter import STARTER_NAME, starter_package
from detector.pose.images import read_image
from detector.pose.similarity import BOX_TO_OKS_AREA, box_ious, oks
from detector.pose.skeleton import OKS_SIGMAS, PARTS

ALL: Final = 'all'
FOUND_IOU: Final = 0.5
"""IoU from which a box finds a person."""
RIGHT: Final = 0.5
"""Similarity from which a keypoint counts as right."""
EDGES: Final = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)
"""Edges of the groups of confidences in the table and the plot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Figures of a package.

    :param similarities: OKS of each person with labelled keypoints, by part, with the true boxes.
    :param confidences: confidence of each labelled keypoint.
    :param right: True for each of these keypoints that is right.
    :param milliseconds: time of the estimator per person.
    :param people: number of annotated persons with a box.
    :param found: number of these that the detector found.
    :param false: number of boxes that are no annotated person.
    """

    name: str
    similarities: dict[str, list[float]]
    confidences: NDArray[np.float32]
    right: NDArray[np.bool_]
    milliseconds: float
    people: int
    found: int
    false: int

    def oks(self, part: str) -> float:
        """Return the mean over the persons; nan if no keypoint of the part is labelled."""
        values = self.similarities[part]
        return float(np.mean(values)) if values else float('nan')


def measure(package: ModelPackage, images: Sequence[LabelledImage], folder: Path, options: EngineOptions) -> Measured:
    """Measure a package on annotated images.

    :param folder: folder of the image files.
    """
    engine = PoseEngine(package, options)
    engine.check()
    similarities: dict[str, list[float]] = {name: [] for name in (*(part.name for part in PARTS), ALL)}
    confidences, right, seconds = [], [], []
    people = found = false = 0
    for image in images:
        pixels = read_image(folder / image.file_name)
        persons = [person for person in image.persons if person.box is not None]
        matched, surplus = _match([pose.box for pose in engine.poses(pixels)], persons)
        people, found, false = people + len(persons), found + matched, false + surplus
        for person in persons:
            start = time.perf_counter()
            (points,), (scores,) = engine.estimator.estimate([(pixels, person.box)])  # type: ignore[list-item]
            seconds.append(time.perf_counter() - start)
            for name, similarity in _similarities(person, points).items():
                similarities[name].append(similarity)
            confidences.append(engine.confidences(scores)[person.labelled])
            right.append(_similarity_of_each(person, points)[person.labelled] >= RIGHT)
    return Measured(
        name=package.model_version,
        similarities=similarities,
        confidences=np.concatenate(confidences),
        right=np.concatenate(right),
        milliseconds=1000 * median(seconds),
        people=people,
        found=found,
        false=false,
    )


def _area(person: Person) -> float:
    """Return the area that the similarity needs: the annotated one, or a share of the box."""
    annotated = person.extra.get('coco', {}).get('area')
    if annotated:
        return float(annotated)
    assert person.box is not None
    return BOX_TO_OKS_AREA * float(np.prod(person.box[2:] - person.box[:2]))


def _similarities(person: Person, points: NDArray[np.float32]) -> dict[str, float]:
    """Return the OKS of each part with labelled keypoints, and of all keypoints."""
    slices = {part.name: part.slice for part in PARTS} | {ALL: slice(None)}
    return {
        name: float(
            oks(
                points[place],
                person.keypoints[place],
                person.labelled[place],
                area=_area(person),
                sigmas=OKS_SIGMAS[place],
            )
        )
        for name, place in slices.items()
        if person.labelled[place].any()
    }


def _similarity_of_each(person: Person, points: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the similarity of each keypoint, (133,)."""
    alone = np.ones((len(points), 1), dtype=np.bool_)
    sigmas = OKS_SIGMAS[:, None]
    return oks(
        points[:, None], person.keypoints[:, None], alone, area=np.full(len(points), _area(person)), sigmas=sigmas
    )


def _match(boxes: Sequence[NDArray[np.float32]], persons: Sequence[Person]) -> tuple[int, int]:
    """Return how many persons are found, and how many boxes find none. The best box comes first."""
    free = [person.box for person in persons if person.box is not None]
    found = 0
    for box in boxes:
        ious = box_ious(box, np.stack(free)) if free else np.zeros(1)
        if ious.max() >= FOUND_IOU:
            free.pop(int(ious.argmax()))
            found += 1
    return found, len(boxes) - found


def report(measured: Sequence[Measured]) -> str:
    """Return the figures as a table in Markdown, one column per package."""
    rows = [['', *(one.name for one in measured)]]
    for part in (*(part.name for part in PARTS), ALL):
        rows.append([f'OKS, {part}', *(f'{one.oks(part):.3f} ({len(one.similarities[part])})' for one in measured)])
    rows.append(['found / false', *(f'{one.found} of {one.people} / {one.false}' for one in measured)])
    rows.append(['ms a person', *(f'{one.milliseconds:.0f}' for one in measured)])
    for low, high in pairwise(EDGES):
        shares = [share_right(one, low, high) for one in measured]
        rows.append([f'right at {low:.1f} to {high:.1f}', *(f'{share:.0%} ({count})' for share, count in shares)])
    lines = [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join([lines[0], '|---' * len(rows[0]) + '|', *lines[1:]])


def share_right(measured: Measured, low: float, high: float) -> tuple[float, int]:
    """Return the share of right keypoints with a confidence from `low` to `high`, and their number."""
    chosen = (measured.confidences >= low) & ((measured.confidences < high) | (high == EDGES[-1]))
    return (float(measured.right[chosen].mean()) if chosen.any() else float('nan')), int(chosen.sum())


def plot(measured: Sequence[Measured], path: Path) -> None:
    """Draw the share of right keypoints over their confidence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout='constrained')
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color='grey', linestyle=':', label='as confident as right')
    for one in measured:
        groups = [share_right(one, low, high) for low, high in pairwise(EDGES)]
        middles = np.add(EDGES[1:], EDGES[:-1]) / 2
        shares, counts = zip(*groups, strict=True)
        axes.plot(middles, shares, marker='o', label=one.name)
        for middle, share, count in zip(middles, shares, counts, strict=True):
            axes.annotate(f'{count}', (middle, share), textcoords='offset points', xytext=(0, 6), fontsize=7)
    axes.set(xlabel='confidence of keypoints', ylabel='share that is right', xlim=(0, 1), ylim=(0, 1.05))
    axes.legend(loc='upper left')
    figure.savefig(path, dpi=100)


@contextmanager
def opened(name: str) -> Iterator[ModelPackage]:
    """Open a package: `starter`, a zip, or the folder of an unpacked one."""
    with tempfile.TemporaryDirectory(prefix='wholebody-') as folder:
        if name == STARTER_NAME:
            yield open_package(starter_package(Path(folder)))
        elif Path(name).is_dir():
            yield open_package(name)
        else:
            yield unpack_package(name, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('annotations', type=Path, help='COCO or COCO-WholeBody file')
    parser.add_argument('--images', type=Path, help='folder of the photographs; by default that of the annotations')
    parser.add_argument('--packages', default=STARTER_NAME, help='`starter`, zips and folders, separated by commas')
    parser.add_argument('--backend', default='onnxruntime', choices=['onnxruntime', 'openvino', 'opencv'])
    parser.add_argument('--plot', type=Path, help='picture to write: how right keypoints are, by confidence')
    arguments = parser.parse_args()
    images = read_coco(arguments.annotations)
    measured = []
    for name in arguments.packages.split(','):
        with opened(name) as package:
            options = EngineOptions(backend_type=arguments.backend)
            measured.append(measure(package, images, arguments.images or arguments.annotations.parent, options))
    print(report(measured))
    if arguments.plot is not None:
        plot(measured, arguments.plot)


if __name__ == '__main__':
    main()
