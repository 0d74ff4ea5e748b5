"""The card of the page that shows the images that wait for the Learning Loop."""

import asyncio
from typing import Final
from urllib.parse import quote

from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from detector.errors import WholebodyError
from detector.outbox.files import Description, Entry
from detector.outbox.outbox import Outbox, OutboxMode
from detector.service import OutboxControl
from detector.settings import Settings
from detector.wording import counted

from .elements import Figures, Notice, Pager, Picture, PictureGrid, complain, panel

PAGE_PICTURES: Final = 12
_COUNTERS: Final = {
    'Waiting': 'waiting',
    'Sent': 'uploaded',
    'Set aside': 'set_aside',
    'Dropped': 'dropped',
    'Not stored': 'failed',
}


class OutboxCard:
    def __init__(self, settings: Settings, control: OutboxControl, outbox: Outbox) -> None:
        self._control = control
        self._outbox = outbox
        self._has_loop = settings.loop_url is not None
        self._listed: list[Entry] | None = None
        self._newest: list[Entry] | None = None
        with panel('Outbox', classes='wide') as head:
            if not self._has_loop:
                ui.label('No Learning Loop is configured (LOOP_HOST), so no image is stored or sent.').classes('faint')
                return
            self._figures = Figures(*_COUNTERS, 'Size, MiB')
            self._error = Notice('error')
            self._empty = ui.label('No image waits.').classes('faint')
            self._grid = PictureGrid(threshold=settings.confidence_threshold)
            self._pager = Pager(PAGE_PICTURES)
        with head:
            self._sending = ui.switch('Send to the Learning Loop', on_change=self._switch)
            self._sending.props('data-control=outbox')

    async def refresh(self) -> None:
        if not self._has_loop:
            return
        about = self._outbox.about()
        for name, counter in _COUNTERS.items():
            self._figures.show(name, str(about[counter]))
        self._figures.show('Size, MiB', f'{about["bytes"] / 1024**2:.1f}')
        self._error.say(about['error'] and f'The last upload failed: {about["error"]}')
        self._sending.set_value(self._is_sending())
        await self._list()

    async def _list(self) -> None:
        waiting = self._outbox.queue.waiting()
        self._empty.set_visibility(not waiting)
        entries = waiting[self._pager.slice(len(waiting))]
        if entries == self._listed:
            return
        self._newest = entries
        described = await asyncio.to_thread(lambda: [entry.describe() for entry in entries])
        if entries is not self._newest:  # a later call has newer entries
            return
        self._listed = entries
        self._grid.show([_picture(description) for description in described])

    async def _switch(self, event: ValueChangeEventArguments[bool | None]) -> None:
        if event.value in (None, self._is_sending()):
            return
        mode = OutboxMode.CONTINUOUS_UPLOAD if event.value else OutboxMode.STOPPED
        try:
            await self._control.set_mode(mode.value)
        except WholebodyError as error:
            complain(error)
        await self.refresh()

    def _is_sending(self) -> bool:
        return self._outbox.get_mode() == OutboxMode.CONTINUOUS_UPLOAD


def _picture(description: Description) -> Picture:
    saved = (description.saved_at or description.name).replace('T', ' ')[:19]
    persons = '' if description.persons is None else counted(description.persons, 'person')
    details = [persons, 'priority' if description.priority else '', description.source or '']
    return Picture(
        address=f'outbox/{quote(description.name)}',
        title=saved,
        lines=[saved, ' · '.join(detail for detail in details if detail)],
        tags=[str(tag) for tag in description.tags or []],
    )
