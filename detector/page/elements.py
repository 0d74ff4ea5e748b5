"""The style of the pages, and the elements that the node's page and the mock Loop's page share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from detector.pose.skeleton import DRAWN_EDGES, PARTS

ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#2458a6"/>'
    '<g fill="none" stroke="#fff" stroke-width="2.4" stroke-linecap="round" stroke-linejoin="round">'
    '<circle cx="16" cy="7.5" r="3"/><path d="M16 12v8M8 14.5l8-2 8 2M11 27l5-7 5 7"/></g></svg>'
)
_STYLE: Final = (Path(__file__).parent / 'style.css').read_text()


def use_style() -> None:
    """Load the style sheet. Call this once per process, before the first page is built."""
    ui.add_head_html(f'<style>{_STYLE}</style>', shared=True)


@contextmanager
def bar(title: str) -> Iterator[None]:
    """Add the bar at the top of a page, with the switch between light and dark; elements added inside go into it."""
    ui.colors(primary='#2f6fc4', positive='#2e7d32', negative='#b3261e')
    with ui.element('header').classes('bar'):
        Text('h1', title)
        yield
        dark = ui.button(icon='contrast').props('flat round dense aria-label="Light or dark"').classes('dark-switch')
        dark.on('click', js_handler='() => Quasar.Dark.toggle()')


@contextmanager
def panel(title: str, *, classes: str = '') -> Iterator[ui.element]:
    """Add a card.

    :return: the title line of the card, to which controls may be added.
    """
    with ui.element('section').classes(f'panel {classes}').props(f'aria-label="{title}"'):
        with ui.element('div').classes('head') as head:
            Text('h2', title)
        yield head


class Text(TextElement):
    """A line of text in an HTML element; the text is escaped."""

    def __init__(self, tag: str, text: str = '', classes: str = '') -> None:
        super().__init__(tag=tag, text=text)
        self.classes(classes)


class Notice(Text):
    """A message in a box, which is hidden while it is empty.

    :param kind: `info`, `warn` or `error`.
    """

    def __init__(self, kind: str) -> None:
        super().__init__('div', classes=f'notice {kind}')
        if kind == 'error':
            self.props('role=alert')
        self.say(None)

    def say(self, text: str | None) -> None:
        self.set_text(text or '')
        self.set_visibility(bool(text))


class Facts:
    """A list of names and values.

    :param names: names in the order of display.
    """

    def __init__(self, *names: str) -> None:
        self._values: dict[str, tuple[Text, Text]] = {}
        with ui.element('dl').classes('facts'):
            for name in names:
                self._values[name] = Text('dt', name), Text('dd')

    def show(self, name: str, value: str | None) -> None:
        """Show a value.

        :param value: None hides the line.
        """
        for element in self._values[name]:
            element.set_visibility(value is not None)
        self._values[name][1].set_text(value or '')


class Figures:
    """Numbers with their names below.

    :param names: names in the order of display.
    """

    def __init__(self, *names: str) -> None:
        self._values: dict[str, Text] = {}
        with ui.element('div').classes('figures'):
            for name in names:
                with ui.element('div').classes('figure').props(f'data-figure="{name}"'):
                    self._values[name] = Text('div', '–', 'value')
                    Text('div', name, 'name')

    def show(self, name: str, value: str) -> None:
        self._values[name].set_text(value)


class SkeletonView(ui.element, component='skeleton_view.js'):
    """An image with its skeletons, toggles for the parts and a slider for the confidence.

    :param threshold: initial value of the slider, 0..1.
    :param picture: address of an image; with None the user selects images, which are posted to `poses`.
    :param card: address of an example that the user may select.
    """

    def __init__(self, *, threshold: float, picture: str | None = None, card: str | None = None) -> None:
        super().__init__()
        self._props['parts'] = [
            {'name': part.name, 'colour': part.hex_colour, 'start': part.start, 'stop': part.stop} for part in PARTS
        ]
        self._props['edges'] = DRAWN_EDGES
        self._props['threshold'] = threshold
        self._props['picture'] = picture
        self._props['card'] = card

    def show(self, picture: str, answer: str) -> None:
        """Show an image.

        :param picture: address of the image.
        :param answer: address of its poses, in the form of `POST /poses`.
        """
        self._props['answer'] = answer
        self._props['picture'] = picture
        self.update()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image with poses, for a `PictureGrid`.

    :param address: address below which `thumbnail`, `image` and `poses` are served.
    :param lines: lines of text below the thumbnail.
    """

    address: str
    title: str
    lines: Sequence[str]
    tags: Sequence[str]


class PictureGrid:
    """Thumbnails; a click opens the image with its skeletons.

    :param threshold: initial value of the slider for the confidence, 0..1.
    """

    def __init__(self, *, threshold: float) -> None:
        self._shown: list[Picture] | None = None
        self._grid = ui.element('div').classes('pictures')
        with ui.dialog() as self._dialog, ui.element('div').classes('picture-dialog panel'):
            with ui.element('div').classes('head'):
                self._title = Text('h2')
                close = ui.button(icon='close').props('flat round dense aria-label="Close"')
                close.on_click(self._dialog.close)
            self._tags = ui.element('div').classes('tags')
            self._view = SkeletonView(threshold=threshold, picture='')

    def show(self, pictures: list[Picture]) -> None:
        if pictures == self._shown:
            return
        self._shown = pictures
        self._grid.clear()
        with self._grid:
            for picture in pictures:
                self._add(picture)

    def _add(self, picture: Picture) -> None:
        with ui.element('button').classes('picture').props('type=button') as button:
            image = ui.element('img').props('loading=lazy')
            image.props['src'] = f'{picture.address}/thumbnail'
            image.props['alt'] = picture.title
            with ui.element('div').classes('text'):
                for line in picture.lines:
                    Text('div', line)
                _add_tags(picture.tags)
        button.on('click', lambda: self._open(picture))

    def _open(self, picture: Picture) -> None:
        self._title.set_text(picture.title)
        self._tags.clear()
        with self._tags:
            for tag in picture.tags:
                Text('span', tag, 'tag')
        self._view.show(f'{picture.address}/image', f'{picture.address}/poses')
        self._dialog.open()


def _add_tags(tags: Sequence[str]) -> None:
    with ui.element('div').classes('tags'):
        for tag in tags:
            Text('span', tag, 'tag')


class Pager:
    """Buttons to turn pages of pictures; hidden while one page holds all pictures.

    :param size: number of pictures per page.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._pages = ui.pagination(1, 1, direction_links=True).props('max-pages=5 :boundary-numbers=false')
        self._pages.set_visibility(False)

    def slice(self, total: int) -> slice:
        """Return the range of pictures on the open page, given their total number."""
        pages = max(1, -(-total // self._size))
        self._pages.max = pages
        self._pages.set_visibility(pages > 1)
        page = min(max(1, self._pages.value or 1), pages)
        self._pages.set_value(page)
        return slice((page - 1) * self._size, page * self._size)


def complain(error: Any) -> None:
    """Show an error to the user."""
    text = str(error)
    ui.notify(text[:1].upper() + text[1:], type='negative', multi_line=True, timeout=10_000, close_button='OK')
