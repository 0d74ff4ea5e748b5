"""The control of the page that downloads a published model and lets the node serve it."""

import asyncio
from collections.abc import Callable

from nicegui import ui

from detector.errors import ModelUnavailable, Unauthorized, WholebodyError
from detector.models.library import AvailableModel, ModelLibrary, PullRequest
from detector.models.pulling import ModelPull, PullState
from detector.service import Models

from .elements import Notice, Text, complain

_MB = 1e6


class PullControl:
    """A button that opens a list of the published models, and the progress of the download.

    :param is_allowed: returns True while the user may change the node.
    """

    def __init__(self, library: ModelLibrary, pull: ModelPull, models: Models, is_allowed: Callable[[], bool]) -> None:
        self._library = library
        self._pull = pull
        self._models = models
        self._is_allowed = is_allowed
        self._open = ui.button('Get a published model', icon='download', on_click=self._choose)
        self._open.props('outline no-caps data-control=get-model')
        with ui.element('div').classes('pull') as self._progress:
            self._status = Text('div').props('role=status')
            self._bar = ui.linear_progress(0, show_value=False).props('rounded instant-feedback')
            self._cancel = ui.button('Cancel the download', on_click=self._stop)
            self._cancel.props('flat dense no-caps data-control=cancel-pull')
        self._info = Notice('info')
        self._error = Notice('error')
        with ui.dialog() as self._dialog, ui.element('div').classes('picture-dialog panel'):
            with ui.element('div').classes('head'):
                Text('h2', 'Published models')
                close = ui.button(icon='close').props('flat round dense aria-label="Close"')
                close.on_click(self._dialog.close)
            self._list = ui.element('div').classes('rows')
            self._sources = ui.element('div').classes('faint')

    def refresh(self) -> None:
        """Show the state of the pull in progress, or of the last one."""
        state = self._pull.state
        running = state is not None and state.running
        self._open.set_visibility(not running)
        self._progress.set_visibility(running)
        self._info.say(_ended(state))
        notice = self._models.notice() or ''  # names the fault already if MODE names the model
        is_told = state is not None and state.error is not None and state.error in notice
        self._error.say(None if is_told else _fault(state))
        if state is not None and running:
            self._status.set_text(_status(state))
            self._cancel.set_visibility(state.stage == 'downloading')
            known = bool(state.expected) and state.stage == 'downloading'
            self._bar.props(remove='indeterminate') if known else self._bar.props('indeterminate')
            self._bar.set_value(min(1.0, state.received / state.expected) if known and state.expected else 0)

    async def _choose(self) -> None:
        try:
            models = await asyncio.to_thread(self._library.available)
        except (WholebodyError, OSError) as error:
            complain(error)
            return
        self._list.clear()
        with self._list:
            for model in models:
                self._add(model)
        self._sources.clear()
        with self._sources:
            Text('div', 'AP: published average precision over the whole body, in percent. The node keeps serving.')
            for source in dict.fromkeys(model.ap_source for model in models if model.ap_source):
                Text('div', source, 'source')
        self._dialog.open()

    def _add(self, model: AvailableModel) -> None:
        with ui.element('div').classes('row-line').props(f'data-model="{model.mode}"'):
            with ui.element('div').classes('grow'):
                Text('b', model.mode)
                Text('div', model.description)
                Text('div', _facts(model), 'faint')
            if self._is_served(model):
                Text('span', 'in use', 'tag')
            else:
                button = ui.button('Use' if model.installed else 'Download and use').props('no-caps unelevated')
                button.on_click(lambda: self._get(model))

    def _is_served(self, model: AvailableModel) -> bool:
        try:
            package = self._models.active().package
        except ModelUnavailable:
            return False
        return (package.name, package.version) == (model.mode, model.version)

    async def _get(self, model: AvailableModel) -> None:
        try:
            self._check_access()
            if model.installed:
                await self._models.set_mode(model.version)
            else:
                self._pull.start(PullRequest(mode=model.mode))
        except (WholebodyError, OSError) as error:
            complain(error)
        self._dialog.close()
        self.refresh()

    async def _stop(self) -> None:
        try:
            self._check_access()
            await self._pull.cancel()
        except WholebodyError as error:
            complain(error)
        self.refresh()

    def _check_access(self) -> None:
        if not self._is_allowed():
            raise Unauthorized('you are logged out; log in again')


def _facts(model: AvailableModel) -> str:
    facts = (
        None if model.megabytes is None else f'{model.megabytes:.0f} MB',
        None if model.ap is None else f'AP {model.ap:.1f}',
        model.licence and f'licence {model.licence}',
        'installed' if model.installed else 'downloaded' if model.downloaded else None,
    )
    return ' · '.join(fact for fact in facts if fact)


def _status(state: PullState) -> str:
    if state.stage == 'installing':
        return f'Checking and installing {state.mode} …'
    arrived = f'{state.received / _MB:.1f}'
    expected = 'MB' if state.expected is None else f'of {state.expected / _MB:.1f} MB'
    return f'Downloading {state.mode}: {arrived} {expected}'


def _ended(state: PullState | None) -> str | None:
    if state is None or state.stage != 'cancelled':
        return None
    return f'The download of {state.mode} was cancelled. Another one continues where it stopped.'


def _fault(state: PullState | None) -> str | None:
    if state is None or state.error is None:
        return None
    return f'{state.mode} is not installed: {state.error}'
