"""The card of the page that says which model serves, and switches to another."""

import asyncio
from typing import TYPE_CHECKING

from learning_loop_node.enums import VersionMode
from nicegui import ui
from nicegui.events import ValueChangeEventArguments

from detector.errors import ModelUnavailable, WholebodyError
from detector.models.embedded import EMBEDDED_NAME, EMBEDDED_NOTICE

from .look import Facts, Notice, complain, panel

if TYPE_CHECKING:
    from detector.node.wholebody_node import WholebodyNode


class ModelCard:
    def __init__(self, node: 'WholebodyNode') -> None:
        self._node = node
        with panel('Model'):
            self._facts = Facts('Serves', 'Runtime', 'Origin', 'Licence', 'Learning Loop', 'Its target', 'Installed')
            self._choice = ui.select({}, label='Which model is to serve', on_change=self._choose)
            self._choice.props('outlined dense options-dense behavior=menu data-control=model').classes('full-width')
            self._progress = Notice('info')
            self._error = Notice('error')
            self._embedded = Notice('warn')

    async def refresh(self) -> None:
        node = self._node
        installed = await asyncio.to_thread(node.store.versions)
        target = None if node.loop_deployment_target is None else str(node.loop_deployment_target.version)
        self._show_model()
        if node.settings.loop_url is None:
            self._facts.show('Learning Loop', 'none is configured')
            self._facts.show('Its target', None)
        else:
            project = f'{node.settings.loop_organization}/{node.settings.loop_project}'
            self._facts.show('Learning Loop', f'{project} at {node.settings.loop_url}')
            self._facts.show('Its target', target or 'unknown')
        self._facts.show('Installed', ', '.join(installed) or 'none')
        busy = node.updates.busy and node.updates.target is not None
        self._progress.say(f'Switching to {node.updates.target.version} …' if busy and node.updates.target else None)
        self._show_choice(installed, target)

    def _show_model(self) -> None:
        node = self._node
        error = node.updates.error and f'Cannot switch: {node.updates.error}'
        try:
            logic, _ = node.serving.active()
        except ModelUnavailable as unavailable:
            self._facts.show('Serves', 'no model')
            for name in ('Runtime', 'Origin', 'Licence'):
                self._facts.show(name, None)
            self._error.say(error or str(unavailable))
            self._embedded.say(None)
            return
        package = logic.package
        self._facts.show('Serves', package.model_version)
        self._facts.show('Runtime', logic.engine.runtime)
        self._facts.show('Origin', package.wholebody.origin or None)
        self._facts.show('Licence', package.wholebody.licence or None)
        self._error.say(error)
        self._embedded.say(EMBEDDED_NOTICE if package.name == EMBEDDED_NAME else None)

    def _show_choice(self, installed: list[str], target: str | None) -> None:
        wanted = self._mode()
        follow = 'none is set' if not self._node.has_loop else f'now {target}' if target else 'target unknown'
        options = {
            VersionMode.FollowLoop.value: f'Follow the Loop ({follow})',
            VersionMode.Pause.value: 'Pause: keep what serves',
        }
        options |= {version: f'Version {version}' for version in installed}
        for version in {target, wanted} - options.keys() - {None}:
            options[str(version)] = f'Version {version}, not installed yet'
        if options != self._choice.options or wanted != self._choice.value:
            self._choice.set_options(options, value=wanted)

    def _mode(self) -> str:
        """What is wanted of the node now: `follow_loop`, `pause` or a version."""
        node = self._node
        if node.version_control == VersionMode.SpecificVersion and node.target_model is not None:
            return str(node.target_model.version)
        return str(node.version_control.value)

    async def _choose(self, event: ValueChangeEventArguments[str]) -> None:
        if event.value is None or event.value == self._mode():
            return
        try:
            await self._node.set_model_version_mode(event.value)
        except (WholebodyError, OSError) as error:
            complain(error)
        await self.refresh()
