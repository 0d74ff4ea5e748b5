"""The card of the page that shows the active model, and switches to another."""

import asyncio
from collections.abc import Callable

from learning_loop_node.enums import VersionMode
from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from detector.errors import ModelUnavailable, WholebodyError
from detector.loop.following import Following
from detector.loop.model_updates import ModelUpdater
from detector.models.embedded import EMBEDDED_NAMES
from detector.service import Service
from detector.serving.model_serving import ModelServing
from detector.settings import Settings

from .elements import Facts, Notice, complain, panel
from .pull_control import PullControl


class ModelCard:
    """The card; `is_allowed` returns True while the user may change the node."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        serving: ModelServing,
        following: Following,
        updates: ModelUpdater,
        is_allowed: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._models = service.models
        self._serving = serving
        self._following = following
        self._updates = updates
        with panel('Model'):
            self._facts = Facts('Serves', 'Runtime', 'Origin', 'Licence', 'Learning Loop', 'Its target', 'Installed')
            self._choice = ui.select({}, label='Which model is to serve', on_change=self._choose)
            self._choice.props('outlined dense options-dense behavior=menu data-control=model').classes('full-width')
            self._progress = Notice('info')
            self._error = Notice('error')
            self._notice = Notice('warn')
            self._pull = PullControl(service.library, service.pull, service.models, is_allowed)

    async def refresh(self) -> None:
        settings, updates, target = self._settings, self._updates, self._following.loop_target
        installed = (await asyncio.to_thread(self._models.versions)).local_versions
        self._show_model()
        if settings.loop_url is None:
            self._facts.show('Learning Loop', 'none is configured')
            self._facts.show('Its target', None)
        else:
            project = f'{settings.loop_organization}/{settings.loop_project}'
            self._facts.show('Learning Loop', f'{project} at {settings.loop_url}')
            self._facts.show('Its target', 'unknown' if target is None else target.version)
        self._facts.show('Installed', ', '.join(installed) or 'none')
        switching = updates.busy and updates.target is not None
        self._progress.say(f'Switching to {updates.target.version} …' if switching and updates.target else None)
        self._show_choice(installed, None if target is None else target.version)
        self._pull.refresh()

    def _show_model(self) -> None:
        error = self._updates.error and f'Cannot switch: {self._updates.error}'
        try:
            model = self._serving.active()
        except ModelUnavailable as unavailable:
            self._facts.show('Serves', 'no model')
            for name in ('Runtime', 'Origin', 'Licence'):
                self._facts.show(name, None)
            self._error.say(error or str(unavailable))
            self._notice.say(None)
            return
        package = model.package
        self._facts.show('Serves', package.model_version)
        self._facts.show('Runtime', model.engine.runtime)
        self._facts.show('Origin', package.wholebody.origin or None)
        self._facts.show('Licence', package.wholebody.licence or None)
        self._error.say(error)
        self._notice.say(self._models.notice())

    def _show_choice(self, installed: list[str], target: str | None) -> None:
        wanted = self._following.mode()
        follow = 'none is set' if not self._following.has_loop else f'now {target}' if target else 'target unknown'
        options = {
            VersionMode.FollowLoop.value: f'Follow the Loop ({follow})',
            VersionMode.Pause.value: 'Pause: keep what serves',
        }
        options |= {version: f'Version {version}' for version in installed}
        options |= {name: f'The embedded model {name}' for name in EMBEDDED_NAMES}
        for version in {target, wanted} - options.keys() - {None}:
            options[str(version)] = f'Version {version}, not installed yet'
        if options != self._choice.options or wanted != self._choice.value:
            self._choice.set_options(options, value=wanted)

    async def _choose(self, event: ValueChangeEventArguments[str]) -> None:
        if event.value is None or event.value == self._following.mode():
            return
        try:
            await self._models.set_mode(event.value)
        except (WholebodyError, OSError) as error:
            complain(error)
        await self.refresh()
