"""Find the task of each image of a dataset by the image's hash or file name."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from detector.datasets.labelled_image import LabelledImage
from detector.label_studio.labels.task_labels import kept_of, noted_name
from detector.label_studio.labels.tasks import Json, address_of, name_in


@dataclass(slots=True, kw_only=True)
class Matches:
    """Images of a dataset and tasks of a project.

    :param found: pairs of image and task.
    :param missing: images without a task.
    :param ambiguous: images with several possible tasks, or that compete for a task, with the reason.
    """

    found: list[tuple[LabelledImage, Json]] = field(default_factory=list)
    missing: list[LabelledImage] = field(default_factory=list)
    ambiguous: list[tuple[LabelledImage, str]] = field(default_factory=list)


def match(
    images: Sequence[LabelledImage], tasks: Iterable[Json], image_key: str, sha256: Mapping[int, str] | None = None
) -> Matches:
    """Find the task of each image; ambiguous ones are reported instead of guessed.

    The hash takes precedence, then the full name with its folders, then the name without folders, then the name that
    Label Studio gives to an upload.

    :param tasks: tasks with `id`, `data` and `meta`.
    :param image_key: field of their data with the image's address.
    :param sha256: hashes of image files in hexadecimal digits, by image id.
    """
    by_id = {int(task['id']): task for task in tasks}
    levels = _index(by_id, image_key)
    matches = Matches()
    claims: dict[int, list[tuple[int, LabelledImage]]] = defaultdict(list)
    for image in images:
        keys = (f'sha256:{(sha256 or {}).get(image.id, "")}', *_keys(image.file_name))
        hits = (
            (level, index[key]) for level, (index, key) in enumerate(zip(levels, keys, strict=True)) if key in index
        )
        level, found = next(hits, (0, set[int]()))
        if not found:
            matches.missing.append(image)
        elif len(found) > 1:
            matches.ambiguous.append((image, f'tasks {", ".join(map(str, sorted(found)[:10]))} have this name'))
        else:
            claims[next(iter(found))].append((level, image))
    for task_id, claimants in claims.items():
        _assign(by_id[task_id], claimants, matches)
    return matches


def _assign(task: Json, claimants: Sequence[tuple[int, LabelledImage]], matches: Matches) -> None:
    """Give a task to the image that matches it on the best level; several such images are ambiguous."""
    best = min(level for level, _ in claimants)
    winners = [image for level, image in claimants if level == best]
    if len(winners) == 1:
        matches.found.append((winners[0], task))
    for level, image in claimants:
        if len(winners) > 1 or level > best:
            others = [other.file_name for _, other in claimants if other is not image]
            matches.ambiguous.append((image, f'task {task["id"]} matches {others[0]} as well'))


def _index(tasks: Mapping[int, Json], image_key: str) -> list[dict[str, set[int]]]:
    """Return the ids of tasks by hash, and by the keys of their names."""
    levels: list[dict[str, set[int]]] = [defaultdict(set) for _ in range(4)]
    for task_id, task in tasks.items():
        meta = task.get('meta')
        digest = meta.get('sha256') if isinstance(meta, Mapping) else None
        if isinstance(digest, str) and digest:
            levels[0][f'sha256:{digest.lower()}'].add(task_id)
        for name in (kept_of(meta).get('file_name'), noted_name(meta), name_in(address_of(task, image_key))):
            for level, key in zip(levels[1:], _keys(name) if isinstance(name, str) else (), strict=False):
                level[key].add(task_id)
    return levels


def _keys(name: str) -> tuple[str, str, str]:
    """Return a full name, the name without folders, and the name that Django gives to an upload."""
    whole = unicodedata.normalize('NFC', name.replace('\\', '/')).strip('/')
    bare = PurePosixPath(whole).name
    return whole, bare, re.sub(r'[^-\w.]', '', bare.strip().replace(' ', '_'))
