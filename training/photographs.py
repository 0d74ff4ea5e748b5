"""The photographs of a folder, their sources and the persons annotated in them."""

import json
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from .grid import Array, Picture

SOURCES: Final = Path(__file__).with_name('sources.toml')
"""List of the published data sets, their licences and their shares of the training."""
ANNOTATED_SCORE: Final = 0.9
"""Score of an annotated person as a target."""


@dataclass(slots=True, kw_only=True)
class Photograph:
    """A photograph's file, and the persons and crowds annotated in it."""

    path: Path
    name: str
    """Path relative to the folder of all photographs, with slashes."""
    boxes: Array | None
    """Rows (N, 5) of left, top, right, bottom (relative to the picture) and 1 for a person, 0 for a crowd."""

    @property
    def held_out(self) -> bool:
        """True for a sixth of the annotated photographs and a fortieth of the others, which never train."""
        return zlib.crc32(self.name.encode()) % (40 if self.boxes is None else 6) == 0

    def read(self) -> tuple[Picture, Array]:
        """Return the picture (BGR) and its annotated boxes (N, 5) in pixels.

        :raises ValueError: the file is no picture.
        """
        picture = picture_in(self.path)
        height, width = picture.shape[:2]
        boxes = np.zeros((0, 5), np.float32) if self.boxes is None else self.boxes.copy()
        boxes[:, [0, 2]] *= width
        boxes[:, [1, 3]] *= height
        return picture, boxes


@dataclass(slots=True, kw_only=True)
class Collection:
    """The photographs of a folder, by source."""

    by_source: Mapping[str, list[Photograph]]
    shares: Mapping[str, float]
    """Share of each source among the training samples; the shares of the sources that the folder has add up to 1."""

    @classmethod
    def of(cls, folder: Path, sources: Path = SOURCES) -> 'Collection':
        """List the photographs of a folder: one subfolder for each source, and `boxes.json` with annotated boxes.

        :raises ValueError: a subfolder is not in the list of sources, or the folder holds no photographs.
        """
        listed = tomllib.loads(sources.read_text(encoding='utf-8'))
        found = dict(photographs(folder))
        if unknown := sorted(set(found) - set(listed)):
            raise ValueError(f'{folder}: {", ".join(unknown)}: not listed; add the source and its licence to {sources}')
        if not found:
            raise ValueError(f'{folder}: no photographs (*.jpg, *.png) in its subfolders')
        shares = {source: float(listed[source]['share']) for source in found}
        total = sum(shares.values())
        return cls(by_source=found, shares={source: share / total for source, share in shares.items()})

    def training(self) -> dict[str, list[Photograph]]:
        """Return the photographs that train, by source."""
        chosen = {source: [one for one in some if not one.held_out] for source, some in self.by_source.items()}
        return {source: some for source, some in chosen.items() if some}

    def held_out(self) -> list[Photograph]:
        """Return the photographs that only measure."""
        return [one for some in self.by_source.values() for one in some if one.held_out]


def picture_in(path: Path) -> Picture:
    """Read a picture (BGR).

    :raises ValueError: the file is no picture.
    """
    picture = cv2.imread(str(path))
    if picture is None:
        raise ValueError(f'{path}: OpenCV cannot read this file as a picture; remove or replace it')
    return np.asarray(picture, np.uint8)


def photographs(folder: Path) -> Iterator[tuple[str, list[Photograph]]]:
    annotations = folder / 'boxes.json'
    rows = json.loads(annotations.read_text(encoding='utf-8')) if annotations.is_file() else {}
    boxes = {name: np.array(some, np.float32).reshape(-1, 5) for name, some in rows.items()}
    for source in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in source.rglob('*') if path.suffix.lower() in {'.jpg', '.jpeg', '.png'})
        names = [path.relative_to(folder).as_posix() for path in files]
        some = [
            Photograph(path=path, name=name, boxes=boxes.get(name)) for path, name in zip(files, names, strict=True)
        ]
        if some:
            yield source.name, some
