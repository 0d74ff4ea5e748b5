"""Order, limits and counters of the outbox."""

import shutil
import threading
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from detector.errors import OutboxFault
from detector.outbox import queue as outbox_queue
from detector.outbox.files import Entry, OutboxFiles
from detector.outbox.queue import OutboxQueue


def make_queue(folder: Path, *, max_images: int = 1000, max_bytes: int = 10**9) -> OutboxQueue:
    queue = OutboxQueue(folder, max_images=max_images, max_bytes=max_bytes)
    queue.load()
    return queue


def save(queue: OutboxQueue, *, priority: bool = False, size: int = 100) -> Entry:
    return queue.save(b'j' * (size - 2), b'{}', priority=priority)


def send(queue: OutboxQueue, entries: list[Entry]) -> None:
    """Count entries as uploaded."""
    queue.uploaded(entries)
    queue.remove_files(entries)
    queue.clear_in_flight()


def assert_accounts(queue: OutboxQueue, **expected: int) -> None:
    """Expect that every accepted image is accounted for, the named counters have these values, and all others are 0."""
    counters = queue.about()
    came_in = counters['found'] + counters['saved']
    ends = ('uploaded', 'set_aside', 'dropped', 'vanished', 'waiting')
    assert came_in == sum(counters[end] for end in ends)
    nonzero = {name: value for name, value in asdict(queue.counters).items() if value}
    assert nonzero == expected
    on_disk = make_queue(queue._files.folder) if not queue._in_flight else queue
    assert [entry.name for entry in on_disk.waiting()] == [entry.name for entry in queue.waiting()]


def test_priority_comes_as_it_came_then_normal_newest_first(tmp_path: Path) -> None:
    """Upstream's order holds within a batch, across batches, and after a restart."""
    queue = make_queue(tmp_path)
    normal = [save(queue) for _ in range(3)]
    urgent = [save(queue, priority=True) for _ in range(2)]
    normal += [save(queue)]
    expected = [*urgent, *reversed(normal)]
    assert queue.waiting() == expected
    assert make_queue(tmp_path).waiting() == expected
    assert queue.next_batch(4, 10**6, 0) == expected[:4]
    send(queue, expected[:4])
    assert queue.next_batch(4, 10**6, 0) == expected[4:]
    queue.clear_in_flight()
    assert_accounts(queue, saved=6, uploaded=4)


def test_a_batch_is_bounded_in_bytes_but_never_empty(tmp_path: Path) -> None:
    """A batch stays within its limit of bytes, and an image above the limit goes alone."""
    queue = make_queue(tmp_path)
    first, second, large = (save(queue, size=size) for size in (100, 100, 5000))
    assert queue.next_batch(20, 250, 0) == [large]
    send(queue, [large])
    for limit in (250, 200):
        assert queue.next_batch(20, limit, 0) == [second, first]
    assert queue.next_batch(20, 199, 0) == [second]
    for entry in (first, second):
        queue.mark_failing(entry)
    assert queue.next_batch(20, 199, 0) == [second], 'a batch of failing images is bounded as well'


def test_the_oldest_of_normal_priority_are_dropped_first(tmp_path: Path) -> None:
    """The limit counts only normal images; priority images are never dropped."""
    queue = make_queue(tmp_path, max_images=2)
    urgent = [save(queue, priority=True) for _ in range(3)]
    normal = [save(queue) for _ in range(5)]
    assert queue.waiting() == [*urgent, normal[4], normal[3]]
    assert_accounts(queue, saved=8, dropped=3)


def test_bytes_are_bounded_and_priority_is_refused_rather_than_dropped(tmp_path: Path) -> None:
    """Normal images make room; if only priority images are left, the caller gets an error."""
    queue = make_queue(tmp_path, max_bytes=1000)
    for _ in range(4):
        save(queue, size=250)
    urgent = [save(queue, priority=True, size=250) for _ in range(3)]
    assert queue.size == 1000
    assert len(queue.waiting()) == 4
    last = save(queue, priority=True, size=250)
    assert queue.waiting() == [*urgent, last]
    for priority in (True, False):
        with pytest.raises(OutboxFault, match='MAX_OUTBOX_MIB'):
            save(queue, priority=priority, size=250)
    assert_accounts(queue, saved=8, dropped=4, failed=2)


def test_several_images_make_room_for_a_large_one(tmp_path: Path) -> None:
    """As many of the oldest images are dropped as a large one needs, and one of the limit's size is accepted."""
    queue = make_queue(tmp_path, max_bytes=1000)
    small = [save(queue, size=200) for _ in range(5)]
    large = save(queue, priority=True, size=700)
    assert queue.waiting() == [large, small[4]]
    assert queue.size == 900
    send(queue, [large])
    largest = save(queue, priority=True, size=1000)
    assert queue.waiting() == [largest]
    assert_accounts(queue, saved=7, uploaded=1, dropped=5)


def test_a_queue_that_was_not_loaded_takes_images(tmp_path: Path) -> None:
    """A queue whose folder could not be read at the start counts what it accepts from then on, and finds it by name."""
    queue = OutboxQueue(tmp_path, max_images=10, max_bytes=1000)
    urgent, normal = save(queue, priority=True, size=30), save(queue, size=40)
    assert [queue.find(name) for name in (urgent.name, normal.name, 'other')] == [urgent, normal, None]
    assert queue.waiting() == [urgent, normal]
    expected = {'waiting': 2, 'waiting_priority': 1, 'bytes': 70, 'saved': 2}
    assert queue.about() == dict.fromkeys(queue.about(), 0) | expected
    for count in (2, 1):
        for entry in (urgent, normal):
            queue.mark_failing(entry)
        assert queue.next_batch(count, 1000, 0) == [urgent, normal][:count]
    assert queue.retries(urgent) is None


def test_a_failing_image_that_leaves_is_no_longer_failing(tmp_path: Path) -> None:
    """An image that was set aside after a failure does not count when the next one is isolated."""
    queue = make_queue(tmp_path)
    gone, failing = save(queue), save(queue)
    queue.mark_failing(gone)
    queue.set_aside(gone, 'test')
    queue.mark_failing(failing)
    queue.isolate(now=0, pause=10)
    assert queue.retries(failing) == 0


def test_what_is_on_its_way_is_not_dropped(tmp_path: Path) -> None:
    """Images in flight are not dropped, and do not count towards the limit until they wait again."""
    queue = make_queue(tmp_path, max_images=2)
    leaving = [save(queue), save(queue)]
    assert queue.next_batch(20, 10**6, 0) == leaving[::-1]
    new = [save(queue) for _ in range(3)]
    assert queue.waiting() == [new[2], new[1], *leaving[::-1]]
    queue.clear_in_flight()
    save(queue)
    assert len(queue.waiting()) == 2, 'images that are no longer in flight must count'
    assert_accounts(queue, saved=6, dropped=4)


def test_a_start_with_too_many_images_drops_the_oldest(tmp_path: Path) -> None:
    """A start with more images than the limit, which may have been lowered, drops the oldest ones."""
    names = [save(make_queue(tmp_path)).name for _ in range(4)]
    queue = make_queue(tmp_path, max_images=2)
    assert [entry.name for entry in queue.waiting()] == [names[3], names[2]]
    assert_accounts(queue, found=4, dropped=2)


def test_a_failing_image_is_sent_after_the_others(tmp_path: Path) -> None:
    """A failing image is sent after the others, whose success shows the cause; if it is alone, it is retried."""
    queue = make_queue(tmp_path)
    failing = save(queue, priority=True)
    queue.mark_failing(failing)
    assert queue.next_batch(20, 10**6, 0) == [failing]
    good = save(queue)
    queue.mark_failing(failing)
    assert queue.next_batch(20, 10**6, 0) == [good]
    queue.mark_failing(good)
    queue.isolate(now=0, pause=10)
    assert queue.next_batch(20, 10**6, 0) == [failing, good], 'several failed, so the Loop was the cause'
    queue.mark_failing(failing)
    queue.clear_failing()
    assert queue.next_batch(20, 10**6, 0) == [failing, good]


def test_an_isolated_image_is_retried_by_itself_after_growing_pauses(tmp_path: Path) -> None:
    """Pauses double up to ten minutes, priority images come first, and an image that arrives is forgotten."""
    queue = make_queue(tmp_path)
    normal, urgent = save(queue), save(queue, priority=True)
    for entry in (normal, urgent):
        queue.mark_failing(entry)
        queue.isolate(now=0, pause=10)
    others = [save(queue) for _ in range(3)]
    assert queue.retries(urgent) == 0
    assert queue.retries(others[0]) is None
    assert queue.next_batch(20, 10**6, 9.9) == others[::-1]
    assert queue.next_batch(20, 10**6, 10) == [urgent]
    retries = []
    now = 10.0
    for _ in range(9):
        queue.isolate_longer(urgent, now)
        retries.append(queue._isolated[urgent.name].retry_at - now)
        now = queue._isolated[urgent.name].retry_at
    assert queue.retries(urgent) == 9
    assert retries == [20, 40, 80, 160, 320, 600, 600, 600, 600]
    assert queue.next_batch(20, 10**6, now - 1) == [normal]
    send(queue, [normal, urgent])
    assert queue.retries(urgent) is None
    assert queue.next_batch(20, 10**6, now) == others[::-1]
    for late in (urgent, normal):
        queue.mark_failing(late)
        queue.isolate_longer(late, now)
    assert queue._failing == set()


def test_ends_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Uploaded, set aside and vanished images are counted once, even if an event happens twice."""
    queue = make_queue(tmp_path)
    uploaded, aside, vanished, halved, *_ = (save(queue) for _ in range(6))
    shutil.rmtree(vanished.folder)
    halved.metadata.unlink()
    for _ in range(2):
        send(queue, [uploaded])
        queue.vanished(vanished)
    queue.set_aside(aside, 'test')
    queue.vanished(halved)
    for entry in (aside, halved):
        assert (tmp_path / 'set_aside' / entry.name / entry.jpeg.name).exists()
    for entry, why in ((aside, 'test'), (halved, 'one of its files is missing')):
        assert f"{entry.name}' is set aside: {why}\n" in caplog.text
    assert queue.find(uploaded.name) is None
    assert_accounts(queue, saved=6, uploaded=1, vanished=1, set_aside=2)


def test_room_of_deleted_images_is_freed(tmp_path: Path) -> None:
    """The queue notices deleted images before it refuses one; an image above the limit gets another error."""
    queue = make_queue(tmp_path, max_bytes=1000)
    for entry in [save(queue, priority=True, size=500) for _ in range(2)]:
        shutil.rmtree(entry.folder)
    save(queue, priority=True, size=500)
    assert_accounts(queue, saved=3, vanished=2)
    with pytest.raises(OutboxFault, match='the image has 1001 bytes; the outbox holds 1000'):
        save(queue, size=1001)


def test_a_start_counts_what_it_finds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Good images and stray files count, and stray files are set aside with the reason in the log."""
    save(make_queue(tmp_path))
    (tmp_path / 'priority' / 'stray').write_text('')
    queue = make_queue(tmp_path)
    counters = queue.about()
    assert (counters['found'], counters['set_aside'], counters['waiting']) == (2, 1, 1)
    assert "stray' is set aside: it is not a folder" in caplog.text


class FrozenClock(datetime):
    """A clock that stands still or is set back."""

    current = datetime(2026, 1, 1, 12)

    @classmethod
    def now(cls, tz: Any = None) -> 'FrozenClock':
        return cls.current  # type: ignore[return-value]


def test_names_never_repeat_nor_run_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are unique and ascending although the clock stands still or is set back, also across a restart."""
    monkeypatch.setattr(outbox_queue, 'datetime', FrozenClock)
    monkeypatch.setattr(FrozenClock, 'current', datetime(2026, 1, 1, 12))
    queue = make_queue(tmp_path)
    names = [save(queue).name for _ in range(3)]
    assert names == [f'2026-01-01_12:00:00.00000{digit}' for digit in range(3)]
    monkeypatch.setattr(FrozenClock, 'current', datetime(2026, 1, 1, 11))
    names.append(save(queue).name)
    queue = make_queue(tmp_path)
    names.append(save(queue).name)
    assert names == sorted(set(names))
    assert [entry.name for entry in queue.waiting()] == names[::-1]


def test_names_of_a_clock_gone_wrong_are_not_followed(tmp_path: Path) -> None:
    """After names from the far future, or a clock set back by years, names show today's date; no image is lost."""
    OutboxFiles(tmp_path).write('2199-12-31_23:59:59.999999', b'jpeg', b'{}', priority=False)
    queue = make_queue(tmp_path)
    names = [save(queue).name for _ in range(3)]
    assert names == sorted(set(names))
    assert names[-1] < '2199'
    assert len(queue.waiting()) == 4


@pytest.mark.parametrize(
    ('ahead', 'followed'), [(timedelta(days=1), False), (timedelta(days=1, microseconds=-1), True)]
)
def test_names_continue_from_up_to_a_day_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: timedelta, followed: bool
) -> None:
    """A clock that was set back by less than a day continues the names; one set back further begins with its time."""
    monkeypatch.setattr(outbox_queue, 'datetime', FrozenClock)
    last = FrozenClock.current + ahead
    OutboxFiles(tmp_path).write(last.isoformat('_', 'microseconds'), b'jpeg', b'{}', priority=False)
    expected = last + timedelta(microseconds=1) if followed else FrozenClock.current
    assert save(make_queue(tmp_path)).name == expected.isoformat('_', 'microseconds')


def test_names_that_are_all_taken_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten names that another process has taken, the image is refused with the reason."""
    queue = make_queue(tmp_path)
    tried: list[str] = []

    def taken(name: str, *_: bytes, **__: bool) -> None:
        tried.append(name)

    monkeypatch.setattr(queue._files, 'write', taken)
    with pytest.raises(OutboxFault, match='cannot store the image: another process writes the same names, last 2'):
        save(queue)
    assert len(set(tried)) == 10
    assert queue.counters.failed == 1


def test_a_name_that_another_process_took_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two queues on one folder with the same clock lose nothing."""
    monkeypatch.setattr(outbox_queue, 'datetime', FrozenClock)
    first, second = make_queue(tmp_path), make_queue(tmp_path)
    for _ in range(4):
        save(first)
        save(second)
    assert len(make_queue(tmp_path).waiting()) == 8


def test_many_threads_save_at_once(tmp_path: Path) -> None:
    """Eight threads save 400 images while others are sent: each is counted once."""
    queue = make_queue(tmp_path)
    done = threading.Event()

    def take() -> None:
        while not done.is_set() or queue.count:
            send(queue, queue.next_batch(20, 10**6, 0))

    taker = threading.Thread(target=take)
    savers = [threading.Thread(target=lambda: [save(queue) for _ in range(50)]) for _ in range(8)]
    for thread in (taker, *savers):
        thread.start()
    for thread in savers:
        thread.join()
    done.set()
    taker.join()
    assert_accounts(queue, saved=400, uploaded=400)


def test_faults_of_the_disk_name_themselves(tmp_path: Path) -> None:
    """With a file in place of a folder, images are refused and counted; saving works once the file is gone."""
    queue = make_queue(tmp_path / 'outbox')
    (tmp_path / 'outbox' / 'normal').rmdir()
    (tmp_path / 'outbox' / 'normal').write_text('')
    with pytest.raises(OutboxFault, match='cannot store the image: '):
        save(queue)
    with pytest.raises(OutboxFault, match=f'the outbox {tmp_path / "outbox"} cannot be used: '):
        queue.load()
    (tmp_path / 'outbox' / 'normal').unlink()
    save(queue)
    assert_accounts(queue, saved=1, failed=1)
