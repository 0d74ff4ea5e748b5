"""The node's page."""

from typing import TYPE_CHECKING, Final

from fastapi import Request
from nicegui import ui

from detector.errors import ModelUnavailable
from detector.loop import upstream

from .load_card import LoadCard
from .look import ICON, SkeletonView, Text, bar, panel, use_look
from .model_card import ModelCard
from .outbox_card import OutboxCard

if TYPE_CHECKING:
    from detector.node.wholebody_node import WholebodyNode

_REFRESH_SECONDS: Final = 1.0


def build(node: 'WholebodyNode') -> None:
    """Register the page."""
    use_look()

    @ui.page('/', title=f'{node.settings.node_name} · poses', favicon=ICON)
    def node_page(request: Request) -> None:
        client, told = ui.context.client, False
        with bar(node.settings.node_name):
            state = Text('span', classes='pill')
            if node.access_policy.has_token:
                with ui.element('form').props('method=post action=/logout').classes('log-out'):
                    Text('button', 'Log out')
        with ui.element('main').classes('cards'):
            with panel('Try an image'):
                SkeletonView(threshold=node.settings.confidence_threshold, card='test-card')
            with ui.element('div').classes('side'):
                model, load = ModelCard(node), LoadCard(node)
            outbox = OutboxCard(node)

        async def refresh() -> None:
            nonlocal told
            if not node.access_policy.allows(request):  # somebody has logged out, in this window or another
                if told:  # and this browser does not obey
                    client.delete()
                else:
                    ui.navigate.reload()
                told = True
                return
            ready = _state(node)
            state.set_text(ready or 'no model serves')
            state.classes(remove='error' if ready else '', add='' if ready else 'error')
            await model.refresh()
            load.refresh()
            await outbox.refresh()

        ui.timer(_REFRESH_SECONDS, refresh)  # runs while the page is open


def _state(node: 'WholebodyNode') -> str | None:
    """The model that serves; None if none does."""
    try:
        logic, _ = upstream.active_detector(node)
    except ModelUnavailable:
        return None
    return f'{logic.package.model_version} serves'
