"""Measure how well a model's persons and keypoints agree with those of annotators.

Average precision and recall are COCO's, by OKS with the sigmas of COCO-WholeBody, for each part and for the whole body.
As in mmpose, the area of a person is 0.53 of the box. Figures of keypoints (PCK, corrections) cover the persons whom
the model found: see `matching.pair`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from detector.datasets.person import Person
from detector.errors import InvalidRequest
from detector.pose.skeleton import KEYPOINT_COUNT, KEYPOINT_NAMES, Part, part_of

from .matching import EVALUATED_PARTS, PCK_THRESHOLDS, WHOLE_BODY, Compared, Matched, PersonArrays
from .precision import precision

METRICS: Final = ('ap', 'ap50', 'ap75', 'ar', 'oks', 'pck05', 'pck10')
"""Fields of `PartFigures` by which versions are compared."""
_PCK05, _PCK10 = PCK_THRESHOLDS.index(0.05), PCK_THRESHOLDS.index(0.1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluated:
    """An image with its annotated and predicted persons.

    :param name: name of the file, or the task's id.
    :param people: annotated persons.
    :param predicted: predicted persons; keypoints below the model's threshold are not labelled. They have only
        keypoints that annotators could label, since others would count as removed.
    :param address: address of the task's page.
    """

    name: str
    people: Sequence[Person]
    predicted: Sequence[Person]
    model_version: str
    address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFigures:
    """Figures of a part or the whole body; None if no keypoint of it is annotated.

    :param people: annotated persons with at least one labelled keypoint of the part.
    :param oks: mean over those of them whom the model found, 0..1.
    :param labelled: labelled keypoints of persons whom the model found.
    :param pck: share of these within each of `PCK_THRESHOLDS` of the box's longer side (Yang and Ramanan, Articulated
        Human Detection with Flexible Mixtures of Parts, 2013; mmpose's `PCKAccuracy` with `norm_item='bbox'`).
    """

    name: str
    people: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    ar: float | None
    oks: float | None
    labelled: int
    pck: tuple[float, ...] | None

    @property
    def pck05(self) -> float | None:
        return None if self.pck is None else self.pck[_PCK05]

    @property
    def pck10(self) -> float | None:
        return None if self.pck is None else self.pck[_PCK10]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeypointFigures:
    """Figures of a keypoint over the persons whom the model found.

    :param labelled: number of persons for whom annotators labelled it.
    :param pck05: see `PartFigures`.
    :param predicted: number of persons for whom the model predicted it.
    :param moved: predicted, but annotated elsewhere: see `matching.MOVED_SHARE`.
    :param removed: predicted, but not annotated.
    :param added: annotated, but not predicted.
    """

    name: str
    part: str
    labelled: int
    pck05: float | None
    pck10: float | None
    predicted: int
    moved: int
    removed: int
    added: int

    @property
    def corrected(self) -> int:
        return self.moved + self.removed + self.added

    @property
    def corrected_share(self) -> float | None:
        """Share of corrected keypoints among those that are annotated or predicted, 0..1."""
        persons = self.predicted + self.added
        return self.corrected / persons if persons else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFigures:
    """Figures of an image.

    :param missed: annotated persons whom the model did not find.
    :param surplus: predicted persons whom annotators did not label.
    :param oks: mean OKS of the whole body over found persons with labelled keypoints; None if there is none.
    :param quality: the same mean, 0..1, with a 0 for each missed or surplus person; 1 if there is nothing to compare.
    """

    name: str
    address: str | None
    people: int
    predicted: int
    missed: int
    surplus: int
    oks: float | None
    quality: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Figures of a model version.

    :param parts: body, feet, face, left_hand, right_hand, whole_body.
    :param keypoints: all 133, in the order of the skeleton.
    :param images: the worst first.
    """

    model_version: str
    people: int
    predicted: int
    missed: int
    surplus: int
    parts: tuple[PartFigures, ...]
    keypoints: tuple[KeypointFigures, ...]
    images: tuple[ImageFigures, ...]


def evaluate(images: Sequence[Evaluated]) -> Evaluation:
    """Measure one version of a model.

    :raises InvalidRequest: there are no images, or they are of several versions.
    :raises ExtraMissing: the extra `evaluate` is not installed.
    """
    versions = {image.model_version for image in images}
    if len(versions) != 1:
        what = f'the versions {", ".join(sorted(versions))}' if versions else 'no images'
        raise InvalidRequest(f'an evaluation needs images of exactly one model version, not {what}')
    compared = [Compared.of(PersonArrays.of(image.people), PersonArrays.of(image.predicted)) for image in images]
    matched = Matched.of(compared)
    figures = [_image_figures(*found) for found in zip(images, compared, strict=True)]
    return Evaluation(
        model_version=versions.pop(),
        people=sum(image.people for image in figures),
        predicted=sum(image.predicted for image in figures),
        missed=sum(image.missed for image in figures),
        surplus=sum(image.surplus for image in figures),
        parts=tuple(_part_figures(part, compared, matched) for part in EVALUATED_PARTS),
        keypoints=tuple(_keypoint_figures(index, matched) for index in range(KEYPOINT_COUNT)),
        images=tuple(sorted(figures, key=lambda image: (image.quality, image.name))),
    )


def _part_figures(part: Part, images: Sequence[Compared], matched: Matched) -> PartFigures:
    coco = precision([(image.people, image.predicted) for image in images], part)
    labelled = matched.labelled[:, part.slice]
    similar = matched.similarities[part.name][labelled.any(axis=1)]
    return PartFigures(
        name=part.name,
        people=sum(int(image.people.with_any_of(part).sum()) for image in images),
        ap=None if coco is None else coco.ap,
        ap50=None if coco is None else coco.ap50,
        ap75=None if coco is None else coco.ap75,
        ar=None if coco is None else coco.ar,
        oks=float(similar.mean()) if similar.size else None,
        labelled=int(labelled.sum()),
        pck=matched.pck(part.slice),
    )


def _keypoint_figures(index: int, matched: Matched) -> KeypointFigures:
    labelled, predicted = matched.labelled[:, index], matched.predicted[:, index]
    pck = matched.pck(slice(index, index + 1))
    return KeypointFigures(
        name=KEYPOINT_NAMES[index],
        part=part_of(index).name,
        labelled=int(labelled.sum()),
        pck05=None if pck is None else pck[_PCK05],
        pck10=None if pck is None else pck[_PCK10],
        predicted=int(predicted.sum()),
        moved=int(matched.moved[:, index].sum()),
        removed=int((predicted & ~labelled).sum()),
        added=int((labelled & ~predicted).sum()),
    )


def _image_figures(image: Evaluated, compared: Compared) -> ImageFigures:
    labelled = compared.people.with_any_of(WHOLE_BODY)
    values = [float(compared.likeness[found]) for found in compared.pairs if labelled[found[0]]]
    missed, surplus = (len(one) - len(compared.pairs) for one in (compared.people, compared.predicted))
    judged = len(values) + missed + surplus
    return ImageFigures(
        name=image.name,
        address=image.address,
        people=len(compared.people),
        predicted=len(compared.predicted),
        missed=missed,
        surplus=surplus,
        oks=sum(values) / len(values) if values else None,
        quality=sum(values) / judged if judged else 1.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A figure of all versions.

    :param part: name of the part.
    :param metric: a field of `PartFigures`.
    """

    part: str
    metric: str
    values: tuple[float | None, ...]

    @property
    def change(self) -> float | None:
        """Difference between the last version and the first."""
        first, last = self.values[0], self.values[-1]
        return None if first is None or last is None else last - first


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Versions side by side.

    :param same_images: True if all were measured on images of the same names; otherwise the figures may differ for this
        reason.
    """

    versions: tuple[str, ...]
    rows: tuple[Row, ...]
    same_images: bool


def compare(evaluations: Sequence[Evaluation]) -> Comparison:
    """Compare two or more versions, with a row per part and metric.

    :raises InvalidRequest: there are fewer than two evaluations, or two of one version.
    """
    versions = tuple(evaluation.model_version for evaluation in evaluations)
    if len(versions) < 2 or len(set(versions)) < len(versions):
        raise InvalidRequest('a comparison needs evaluations of at least two versions, each once')
    return Comparison(
        versions=versions,
        rows=tuple(
            Row(part=parts[0].name, metric=metric, values=tuple(getattr(part, metric) for part in parts))
            for parts in zip(*(evaluation.parts for evaluation in evaluations), strict=True)
            for metric in METRICS
        ),
        same_images=len({tuple(sorted(image.name for image in found.images)) for found in evaluations}) == 1,
    )
