"""What readers and writers of datasets leave out, with a line and a count for each.

A function that reads or writes one item either returns it or raises InvalidRequest. `Omissions.each` is the only place
that catches this error, so an item is either part of the result, or has a line and is counted.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, TypeVarTuple

from detector.errors import InvalidRequest
from detector.wording import counted

R = TypeVar('R')
Ts = TypeVarTuple('Ts')


class Omissions:
    """Collects what is left out.

    :param show: called with a line that names the file, the field, its value and the remedy; None: raise the line as
        InvalidRequest, so that a caller who wants no report gets all or nothing.
    :param expected: classes of objects other than persons that may be left out without a line.
    """

    def __init__(self, show: Callable[[str], object] | None = None, *, expected: Collection[str] = ()) -> None:
        self.counts: Counter[str] = Counter()
        self._show = show
        self._expected = expected
        self._place = ''

    def within(self, place: object) -> 'Omissions':
        """Return a view whose lines begin with the name of a file; it has the same counts."""
        view = Omissions(self._show, expected=self._expected)
        view.counts = self.counts
        view._place = f'{self._place}{place}: '
        return view

    def add(self, what: str, line: str, count: int = 1) -> None:
        """Report something that is left out.

        :param what: what the count at the end is for, in the singular, its noun first: `image without a task`.
        :raises InvalidRequest: this object has no `show`.
        """
        text = line if self._place and line.startswith(self._place.rstrip(': ')) else f'{self._place}{line}'
        if self._show is None:
            raise InvalidRequest(text)
        self.counts[what] += count
        self._show(text)

    def add_classes(self, places: Mapping[str, Sequence[str]]) -> None:
        """Report objects that are not persons, with one line for each class that is not expected.

        :param places: names of the objects by class.
        """
        for name, found in places.items():
            if name not in self._expected:
                more = f', and {counted(len(found) - 1, "other")}' if len(found) > 1 else ''
                line = f'{found[0]}{more}: the class {name} is not person; --ignore-class {name} accepts it'
                self.add('object of another class', line, len(found))

    def each(self, what: str, items: Iterable[tuple[*Ts]], read: Callable[[*Ts], R]) -> list[R]:
        """Return the results of a function for all items; report the items that it refuses.

        :param what: see `add`.
        :param items: arguments of `read`.
        """
        found: list[R] = []
        for item in items:
            try:
                found.append(read(*item))
            except InvalidRequest as error:
                self.add(what, str(error))
        return found

    def whole(
        self, what: str, items: Sequence[tuple[*Ts]], read: Callable[[*Ts], R], *, owner: str, noun: str
    ) -> list[R]:
        """Return the results of a function for all items of an owner; report the items that it refuses.

        :param what: see `add`.
        :param items: arguments of `read`.
        :param owner: name of what the items belong to, such as an image.
        :param noun: what an item is called, in the singular.
        :raises InvalidRequest: an item is refused, so the owner would lose it.
        """
        found = self.each(what, items, read)
        if len(found) < len(items):
            count = counted(len(items), noun)
            raise InvalidRequest(f'{owner} has {count}, {len(items) - len(found)} of which cannot be read')
        return found

    @property
    def summary(self) -> str:
        """Counts as text: `2 images without a task, 3 keypoints`."""
        parts = ((count, *what.partition(' ')) for what, count in sorted(self.counts.items()))
        return ', '.join(f'{counted(count, noun)}{space}{rest}' for count, noun, space, rest in parts)


def numbered(values: Iterable[Any], name: str) -> Iterator[tuple[Any, str]]:
    """Yield values with their names, such as `images[3]`."""
    return ((value, f'{name}[{number}]') for number, value in enumerate(values))
