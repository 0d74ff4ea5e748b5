"""Finding the task of a labelled image."""

from collections.abc import Sequence

from detector.datasets.labelled_image import LabelledImage
from detector.label_studio.labels.task_labels import kept_of, with_kept
from detector.label_studio.workflows.task_matching import Matches, match
from tests.support.label_studio.imported import image, task
from tests.support.people import SIZE, make_image


def found(matches: Matches) -> dict[int, int]:
    return {one.id: other['id'] for one, other in matches.found}


def named(matches: Sequence[tuple[LabelledImage, str]]) -> list[int]:
    return sorted(one.id for one, _ in matches)


def test_names_find_their_tasks() -> None:
    """Tasks are found by names of uploads, names with folders, and names noted by an import."""
    tasks = [
        task(1, '/data/upload/4/31fe11d0-a_b1.jpg'),
        task(2, '/data/upload/4/31fe11d1-Stra%C3%9Fe.jpg'),
        task(3, '/data/local-files/?d=photos/c.jpg'),
        task(4, '/data/upload/4/31fe11d2-x.jpg', **with_kept({}, image(9, 'val2017/d.jpg'))),
        task(5, 'https://host/e.jpg'),
        task(6, '/data/upload/4/31fe11d3-0815.jpg', file='f+f.jpg'),
    ]
    names = ('a b(1).jpg', 'Straße.jpg', 'photos/c.jpg', 'val2017/d.jpg', 'in/e.jpg', 'f+f.jpg', 'g.jpg')
    matches = match([image(10 + number, name) for number, name in enumerate(names, 1)], tasks, 'image')
    assert found(matches) == {11: 1, 12: 2, 13: 3, 14: 4, 15: 5, 16: 6}
    assert [one.id for one in matches.missing] == [17]
    assert not matches.ambiguous


def test_the_hash_counts_most() -> None:
    """The hash takes precedence over another name."""
    tasks = [
        task(1, '/data/upload/4/31fe11d0-b.jpg', sha256='AA'),
        task(2, '/data/upload/4/31fe11d0-a.jpg', sha256='bb'),
    ]
    matches = match([image(1, 'a.jpg'), image(2, 'b.jpg')], tasks, 'image', {1: 'aa', 2: 'bb'})
    assert found(matches) == {1: 1, 2: 2}


def test_nothing_is_guessed() -> None:
    """Two tasks of a name or two images for a task are ambiguous, and a full name beats one without folders."""
    tasks = [
        task(1, '/data/upload/4/31fe11d0-a.jpg'),
        task(2, '/data/upload/4/31fe11d1-a.jpg'),
        task(3, '/data/upload/4/31fe11d1-b.jpg'),
        task(4, '/data/local-files/?d=one/c.jpg'),
        task(5, '/data/local-files/?d=two/c.jpg'),
        {'id': 6, 'data': None, 'meta': None},
    ]
    names = ('a.jpg', 'x/b.jpg', 'y/b.jpg', 'two/c.jpg', 'three/c.jpg')
    matches = match([image(number, name) for number, name in enumerate(names, 1)], tasks, 'image')
    assert found(matches) == {4: 5}
    assert named(matches.ambiguous) == [1, 2, 3, 5]
    matches = match([image(1, 'b.jpg'), image(2, 'y/b.jpg')], tasks, 'image')
    assert found(matches) == {1: 3}
    assert matches.ambiguous[0][1] == 'task 3 matches b.jpg as well'


def test_what_a_task_keeps_of_an_image() -> None:
    """A task's meta keeps an image's fields beside its other entries and returns them unchanged."""
    meta = with_kept({'sha256': 'aa', 'wholebody': {'other': 1}}, make_image(0, 5, extra={'license': 4}))
    assert meta['sha256'] == 'aa'
    assert meta['wholebody']['other'] == 1
    assert kept_of(meta) == {'license': 4, 'id': 5, 'file_name': '0005.jpg', 'width': SIZE[0], 'height': SIZE[1]}
    assert kept_of(None) == kept_of({'wholebody': []}) == {}
