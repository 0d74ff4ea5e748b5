"""The queue of annotations on disk."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from detector.label_studio.backend import correction_queue
from detector.label_studio.backend.correction_queue import MAX_PAUSE_SECONDS, MAX_TRIES, CorrectionQueue, Hint

HINT = Hint(annotation=5, project=1)


@pytest.fixture
def queue(tmp_path: Path) -> CorrectionQueue:
    return CorrectionQueue(tmp_path / 'folder' / 'queue.sqlite')


def first(queue: CorrectionQueue) -> Hint:
    hint, _ = queue.next()
    assert hint is not None
    return hint


def test_what_waits_survives_a_restart(tmp_path: Path) -> None:
    """Waiting annotations and sent versions survive a restart."""
    before = CorrectionQueue(tmp_path / 'queue.sqlite')
    before.add([HINT, Hint(annotation=6, project=2)], 100.0)
    before.finish(first(before), 'v1')
    before.close()
    after = CorrectionQueue(tmp_path / 'queue.sqlite')
    hint, due = after.next()
    assert (hint and hint.annotation, hint and hint.project, due) == (6, 2, 100.0)
    assert after.was_sent(HINT, 'v1')
    assert not after.was_sent(HINT, 'v2')
    assert after.about() == {'waiting': 1, 'sent': 1, 'given_up': 0, 'missed': 0}


def test_an_annotation_waits_once(queue: CorrectionQueue) -> None:
    """An annotation waits once, however many calls name it, and the one that is due first comes first."""
    queue.add([HINT], 50.0)
    queue.add([HINT, Hint(annotation=4, project=1)], 40.0)
    assert queue.about()['waiting'] == 2
    assert first(queue).annotation == 4
    queue.finish(first(queue), None)
    assert first(queue).annotation == 5
    assert queue.next()[1] == 40.0


def test_news_that_come_while_it_is_handled_are_not_lost(queue: CorrectionQueue) -> None:
    """An annotation that is named again while it is handled stays in the queue."""
    queue.add([HINT], 0.0)
    handled = first(queue)
    queue.add([HINT], 10.0)
    queue.finish(handled, 'v1')
    assert queue.about() == {'waiting': 1, 'sent': 1, 'given_up': 0, 'missed': 0}
    queue.finish(first(queue), None)
    assert queue.next() == (None, 0.0)


def test_pauses_double_up_to_a_limit(queue: CorrectionQueue) -> None:
    """Pauses double up to a limit; an outage is retried without end, and a missing image is given up."""
    queue.add([HINT], 0.0)
    pauses = []
    for _ in range(20):
        assert not queue.postpone(first(queue), 1000.0, limited=False)
        pauses.append(queue.next()[1] - 1000)
    assert pauses[:3] == [5, 10, 20]
    assert pauses[-1] == MAX_PAUSE_SECONDS
    queue.add([HINT], 0.0)
    given_up = [queue.postpone(HINT, 1000.0, limited=True) for _ in range(MAX_TRIES - 1)]
    assert not any(given_up)
    assert queue.postpone(first(queue), 1000.0, limited=True)
    assert queue.about() == {'waiting': 0, 'sent': 0, 'given_up': 1, 'missed': 0}


def test_a_version_that_is_given_up_is_not_tried_again(queue: CorrectionQueue) -> None:
    """After the last try the version counts as handled; to put off an annotation that is gone changes nothing."""
    queue.add([HINT], 0.0)
    for _ in range(MAX_TRIES):
        assert not queue.was_sent(HINT, 'v1')
        queue.postpone(first(queue), 0.0, limited=True, version='v1')
    assert queue.was_sent(HINT, 'v1')
    assert not queue.postpone(HINT, 0.0, limited=True, version='v2')
    assert queue.about() == {'waiting': 0, 'sent': 0, 'given_up': 1, 'missed': 0}
    assert queue.add_missed([(HINT, 'v1')], 1.0) == 0


def test_forged_calls_do_not_fill_the_disk(queue: CorrectionQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of waiting annotations is limited, so forged calls do not fill the disk."""
    monkeypatch.setattr(correction_queue, 'MAX_WAITING', 100)
    for start in (1, 101, 201):
        queue.add([Hint(annotation=start + number, project=1) for number in range(70)], 0.0)
    assert queue.about()['waiting'] == 100


def test_a_broken_database_is_set_aside(tmp_path: Path) -> None:
    """A damaged database is renamed and replaced by a new one."""
    path = tmp_path / 'queue.sqlite'
    path.write_bytes(b'hello' * 1000)
    queue = CorrectionQueue(path)
    queue.add([HINT], 0.0)
    assert first(queue).annotation == 5
    assert path.with_suffix('.broken').exists()


def test_a_database_of_another_schema_is_set_aside(tmp_path: Path) -> None:
    """A sound database with other tables than those of the queue is renamed as well."""
    path = tmp_path / 'queue.sqlite'
    with closing(sqlite3.connect(path)) as other:
        other.execute('CREATE TABLE other (annotation TEXT)')
        other.commit()
    queue = CorrectionQueue(path)
    queue.add([HINT], 0.0)
    assert first(queue).annotation == 5
    assert path.with_suffix('.broken').exists()


def test_several_threads_use_a_queue(queue: CorrectionQueue) -> None:
    """Each call may come from another thread, as the calls of a node do."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(queue.add, [HINT], 0.0).result()
    assert first(queue).annotation == 5


def test_a_database_that_cannot_be_opened_stays_where_it_is(tmp_path: Path) -> None:
    """Only a damaged database is renamed; one that the system does not open may be sound."""
    path = tmp_path / 'queue.sqlite'
    path.mkdir()
    with pytest.raises(OSError, match='unable to open database file'):
        CorrectionQueue(path)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_faults_of_the_disk_are_errors_of_the_system(tmp_path: Path) -> None:
    """Errors of the database are raised as OSError."""
    queue = CorrectionQueue(tmp_path / 'other.sqlite')
    with sqlite3.connect(tmp_path / 'other.sqlite') as other:
        other.execute('DROP TABLE waiting')
    with pytest.raises(OSError, match='the database of corrections'):
        queue.add([HINT], 0.0)


def test_missed_versions_are_queued_once(queue: CorrectionQueue) -> None:
    """A listed annotation is queued unless it waits or this version of it was sent or given up."""
    sent, lost, waiting, new = (Hint(annotation=number, project=1) for number in range(1, 5))
    for hint in (sent, lost):
        queue.add([hint], 0.0)
        handled = first(queue)
        if hint is sent:
            queue.finish(handled, 'v1')
        else:
            queue.give_up(handled, 'v1')
    queue.add([waiting], 0.0)
    assert queue.add_missed([(hint, 'v1') for hint in (sent, lost, waiting, new)], 5.0) == 1
    assert queue.about() == {'waiting': 2, 'sent': 1, 'given_up': 1, 'missed': 1}
    assert (queue.due(4.0), queue.due(5.0)) == (1, 2)
    assert queue.add_missed([(hint, 'v2') for hint in (sent, lost, waiting, new)], 5.0) == 2
    assert queue.about()['missed'] == 3
    for _ in range(MAX_TRIES):
        given_up = queue.postpone(lost, 6.0, limited=True, version='v2')
    assert given_up
    assert queue.add_missed([(lost, 'v2')], 7.0) == 0
