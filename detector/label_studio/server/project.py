"""A Label Studio project: its tasks, predictions, annotations, views, backends and webhooks."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

from detector.errors import LabelStudioFault, NotInLabelStudio

from . import data_manager
from .client import Connection
from .data_manager import condition, predicted, query

Json = dict[str, Any]

UNCERTAINTY_SAMPLING: Final = 'Uncertainty sampling'
"""Value of a project's `sampling` with which the label stream follows the predictions' scores."""

_PAGE_TASKS: Final = 500
_PAGE_FULL_TASKS: Final = 50
"""Tasks per page with annotations and predictions, each of which may have a thousand regions."""
_ONLY_LISTED: Final = {'review': 'true', 'resolve_uri': 'false'}
"""Parameters with which Label Studio lists tasks without predicting them first."""
_DATETIME: Final = '%Y-%m-%dT%H:%M:%S.%fZ'
_NOTHING: Final = '(?!)'
"""Regular expression that matches no file name."""


class Project:
    """A project of the Label Studio behind a connection.

    All methods raise the errors of `Connection.request`.
    """

    def __init__(self, connection: Connection, project_id: int) -> None:
        self.connection = connection
        self.id = project_id

    # ------------------------------------------------------------ the project

    @classmethod
    async def create(cls, connection: Connection, *, title: str, label_config: str, **fields: Any) -> Self:
        """Create a project.

        :param fields: further settings of the project, such as `sampling`.
        """
        body = {'title': title, 'label_config': label_config} | fields
        return cls(connection, int((await connection.request('POST', '/api/projects/', json=body))['id']))

    async def delete(self) -> None:
        """Delete the project with its tasks, annotations and predictions."""
        await self.connection.request('DELETE', f'/api/projects/{self.id}/')

    async def settings(self) -> Json:
        """Return title, labeling config, sampling, counts and so on."""
        return await self.connection.project(self.id)

    async def label_config(self) -> str:
        """Return the XML of the labeling config; empty if the project has none."""
        return str((await self.settings()).get('label_config') or '')

    async def change(self, **fields: Any) -> Json:
        """Change settings, such as `label_config`, `model_version`, `sampling`."""
        return await self._object('PATCH', f'/api/projects/{self.id}/', json=fields)

    async def model_versions(self) -> dict[str, int]:
        """Return the number of predictions by model version, the version of the newest prediction first."""
        path = f'/api/projects/{self.id}/model-versions/'
        answer = await self._object('GET', path, params={'extended': 'true'})
        found = sorted(answer.get('static') or (), key=lambda version: str(version.get('latest')), reverse=True)
        return {str(entry['model_version']): int(entry['count']) for entry in found if entry.get('model_version')}

    def page(self, **params: int) -> str:
        """Return the address of the project's data manager for a browser.

        :param params: parameters such as `task` or `tab`.
        """
        query = f'?{urlencode(params)}' if params else ''
        return f'{str(self.connection.url).rstrip("/")}/projects/{self.id}/data{query}'

    # ------------------------------------------------------------ tasks

    async def tasks(self, *, full: bool = False, after: int = 0, filters: Sequence[Json] = ()) -> AsyncIterator[Json]:
        """Yield the tasks in the order of their ids.

        :param full: True to include complete `annotations` and `predictions`.
        :param after: yield only tasks with a higher id.
        :param filters: filters of the data manager that a task must pass. Changes that are made while iterating must
            not affect them.
        """
        params: dict[str, str | int] = {'page_size': _PAGE_TASKS}
        if full:
            params = {'page_size': _PAGE_FULL_TASKS, 'fields': 'all'}
        newer = [condition('id', 'greater', 'Number', after)] if after else []
        async for task in self._listed(params, [*newer, *filters]):
            yield task

    async def _listed(self, params: Mapping[str, str | int], filters: Sequence[Json]) -> AsyncIterator[Json]:
        asked = {'query': query(*filters), 'resolve_uri': 'false', **params}
        page, seen = 1, 0
        while True:
            answer = await self._task_page(**asked, page=page)
            for task in answer['tasks']:
                yield task
            page, seen = page + 1, seen + len(answer['tasks'])
            if seen >= answer['total'] or not answer['tasks']:
                return

    async def _task_page(self, **params: str | int) -> Json:
        return await self._object('GET', '/api/tasks/', params={'project': self.id, **params})

    async def last_change(self) -> datetime | None:
        """Return the time of the last change of a task or its annotations; None without tasks."""
        latest = {'query': query(order='-updated_at'), 'include': 'id,updated_at', **_ONLY_LISTED}
        tasks = (await self._task_page(**latest, page_size=1))['tasks']
        return datetime.fromisoformat(tasks[0]['updated_at']) if tasks else None

    async def annotated_since(self, since: datetime) -> AsyncIterator[list[Json]]:
        """Yield pages of annotated tasks that were changed since a time, in the order of their last change.

        A task that is changed meanwhile comes again, and none is passed over. Tasks and their `annotations` have only
        `id`, `updated_at` and `was_cancelled`.
        """
        asked = {'fields': 'all', 'include': 'id,updated_at,was_cancelled,annotations', **_ONLY_LISTED}
        page = 1
        while True:
            start = since.astimezone(UTC).strftime(_DATETIME)
            changed = condition('updated_at', 'greater_or_equal', 'Datetime', start)
            wanted = query(changed, data_manager.ANNOTATED, order='updated_at')
            answer = await self._task_page(**asked, page_size=_PAGE_TASKS, page=page, query=wanted)
            tasks: list[Json] = answer['tasks']
            if tasks:
                yield tasks
            if len(tasks) < _PAGE_TASKS:
                return
            last = datetime.fromisoformat(tasks[-1]['updated_at'])
            since, page = (last, 1) if last > since else (since, page + 1)

    async def import_tasks(self, tasks: Sequence[Json]) -> list[int]:
        """Import tasks and return their ids.

        :param tasks: `{'data': {…}}`, optionally with `meta`, `annotations` and `predictions`.
        """
        path = f'/api/projects/{self.id}/import'
        answer = await self._object('POST', path, params={'return_task_ids': 'true'}, json=list(tasks))
        return [int(task_id) for task_id in answer.get('task_ids', ())]

    async def upload_files(self, files: Iterable[tuple[str, bytes]]) -> list[tuple[int, str]]:
        """Upload files without creating tasks, and return the ids and addresses of the uploads in the files' order.

        :param files: names and contents; Label Studio accepts at most 100 files and 250 MiB.
        """
        content = [(f'file{index}', file) for index, file in enumerate(files)]
        path = f'/api/projects/{self.id}/import'
        answer = await self._object('POST', path, params={'commit_to_project': 'false'}, files=content)
        ids = answer.get('file_upload_ids', [])
        listed = await self.connection.get_json(f'/api/projects/{self.id}/file-uploads', ids=json.dumps(ids))
        paths = {int(upload['id']): str(upload['file']) for upload in listed}
        if len(ids) != len(content) or not paths.keys() >= set(ids):
            raise LabelStudioFault(f'{self.connection.url} does not report all uploaded files')
        # quoted as Label Studio itself writes the addresses of uploads
        start = f'{self.connection.prefix}/data/'
        return [(upload_id, start + quote(paths[upload_id], safe="/~!*()'")) for upload_id in ids]

    async def delete_uploads(self, upload_ids: Sequence[int]) -> None:
        """Delete uploaded files that no task uses."""
        body = {'file_upload_ids': list(upload_ids)}
        await self.connection.request('DELETE', f'/api/projects/{self.id}/file-uploads', json=body)

    async def drafted(self) -> set[int]:
        """Return the ids of tasks with a draft that is not submitted yet."""
        unfinished = condition('drafts', 'empty', 'Boolean', False)
        return {int(task['id']) async for task in self.tasks(filters=[unfinished])}

    async def delete_tasks(self, task_ids: Sequence[int]) -> None:
        """Delete tasks with their annotations and predictions; missing tasks are ignored."""
        await self._act('delete_tasks', task_ids)

    async def set_data(self, task_ids: Sequence[int], name: str, value: str) -> None:
        """Write one text into a field of many tasks' data; the other fields keep their values."""
        await self._act('add_data_field', task_ids, value_name=name, value_type='String', value=value)

    async def replace_data(self, task_ids: Sequence[int], name: str, old: str, new: str) -> None:
        """Replace a part of the text in a field of many tasks' data.

        :param old: text without quotes, commas and brackets; so is `new`.
        """
        expression = f'replace({json.dumps(old)}, {json.dumps(new)})'
        await self._act('add_data_field', task_ids, value_name=name, value_type='Expression', value=expression)

    async def _act(self, action: str, task_ids: Sequence[int], **options: str) -> None:
        """Run an action of the data manager; Label Studio also performs those that its menu does not show."""
        wanted: dict[str, str | int] = {'id': action, 'project': self.id}
        body = {'project': self.id, 'selectedItems': {'all': False, 'included': list(task_ids)}} | options
        await self.connection.request('POST', '/api/dm/actions', params=wanted, json=body)

    async def change_task(self, task_id: int, **fields: Any) -> Json:
        """Replace `data` or `meta` of a task."""
        return await self._object('PATCH', f'/api/tasks/{task_id}/', json=fields)

    # ------------------------------------------------------------ predictions and annotations

    async def import_predictions(self, predictions: Sequence[Json]) -> int:
        """Store predictions.

        :param predictions: `{'task': id, 'result': […], 'score': …, 'model_version': …}`.
        :return: the number of stored predictions; Label Studio silently drops those that do not fit the labeling
            config.
        """
        body = list(predictions)
        return int((await self._object('POST', f'/api/projects/{self.id}/import/predictions', json=body))['created'])

    async def predictions(self, task_id: int) -> list[Json]:
        """Return all predictions of a task."""
        return await self._list('/api/predictions/', task=task_id)

    async def tasks_without(self, model_version: str) -> AsyncIterator[Json]:
        """Yield the tasks that have no prediction of exactly this model version.

        :param model_version: a name without commas.
        """
        if data_manager.is_confused(model_version, await self.model_versions()):
            having = await self.tasks_with(model_version)
            async for task in self.tasks():
                if task['id'] not in having:
                    yield task
        else:
            async for task in self.tasks(filters=[predicted('not_contains', model_version)]):
                yield task

    async def tasks_with(self, model_version: str, *, within: tuple[int, int] | None = None) -> set[int]:
        """Return the ids of the tasks that have a prediction of exactly this model version.

        :param model_version: a name without commas.
        :param within: first and last task id to consider; None: all.
        """
        filters = [predicted('contains', model_version)]
        if within is not None:
            filters.append(condition('id', 'in', 'Number', dict(zip(('min', 'max'), within, strict=True))))
        versions = {'fields': 'all', 'include': 'id,predictions_model_versions'}
        return {
            int(task['id'])
            async for task in self._listed({'page_size': _PAGE_TASKS, **versions}, filters)
            if model_version in str(task.get('predictions_model_versions') or '').split(',')
        }

    async def _count_with(self, model_version: str, known: Iterable[str]) -> int:
        """:param known: all model versions of the project."""
        if data_manager.is_confused(model_version, known):
            return len(await self.tasks_with(model_version))
        return int((await self._task_page(query=query(predicted('contains', model_version)), page_size=1))['total'])

    async def remove_surplus(self, model_version: str) -> int:
        """Delete all but the oldest prediction of a version from each task.

        A busy Label Studio on SQLite repeats requests internally and then stores predictions twice, and two runs at the
        same time may each store one.

        :return: the number of deleted predictions.
        """
        counts = await self.model_versions()
        surplus = counts.get(model_version, 0) - await self._count_with(model_version, counts)
        deleted = 0
        if surplus > 0:
            async for task in self.tasks():
                if task['total_predictions'] > 1:
                    found = [one for one in await self.predictions(task['id']) if one['model_version'] == model_version]
                    for repeated in sorted(one['id'] for one in found)[1:]:
                        with suppress(NotInLabelStudio):  # another run has deleted it
                            await self.delete_prediction(repeated)
                            deleted += 1
        return deleted

    async def delete_prediction(self, prediction_id: int) -> None:
        await self.connection.request('DELETE', f'/api/predictions/{prediction_id}/')

    async def annotate(self, task_id: int, result: Sequence[Json]) -> Json:
        """Submit an annotation."""
        return await self._object('POST', f'/api/tasks/{task_id}/annotations/', json={'result': list(result)})

    # ------------------------------------------------------------ views, backends, webhooks

    async def views(self) -> list[Json]:
        """Return the tabs of the data manager."""
        return await self._list('/api/dm/views/')

    async def save_view(self, data: Json) -> Json:
        """Create a tab, or change the tab with the same title.

        :param data: `title`, `ordering`, `filters` and so on, in the data manager's form.
        """
        body = {'project': self.id, 'data': data}
        known = [view for view in await self.views() if view.get('data', {}).get('title') == data['title']]
        return await self._save('/api/dm/views/', '/', known, body)

    async def backends(self) -> list[Json]:
        """Return all backends of the project; Label Studio calls `/setup` of each before it answers."""
        return await self._list('/api/ml/')

    async def backend(self, backend_id: int) -> Json:
        """Return one backend; Label Studio calls its `/setup`, and no other one's, before it answers."""
        return await self._object('GET', f'/api/ml/{backend_id}')

    async def save_backend(self, *, url: str, title: str, user: str | None, password: str | None) -> Json:
        """Connect a machine learning backend, or change the connection to the same address.

        Label Studio checks the health of the backend before it answers.

        :param title: title, which becomes the project's `model_version`.
        :param user: user name for the backend's basic auth; None: the backend has none.
        :raises InvalidRequest: Label Studio cannot or may not contact the backend, or the backend refuses it.
        """
        body: Json = {'project': self.id, 'url': url, 'title': title, 'is_interactive': True, **_login(user, password)}
        return await self._save('/api/ml/', '', with_address(await self.backends(), url), body)

    async def rename_backend(self, backend: Json, *, title: str, password: str | None) -> None:
        """Change the title of a backend; Label Studio changes the project's `model_version` too if it was the old one.

        Label Studio checks the health of the backend before it answers.

        :param backend: the backend as `backends` lists it.
        :param password: password for its basic auth, which Label Studio does not list.
        """
        user = backend.get('basic_auth_user') if backend.get('auth_method') == 'BASIC_AUTH' else None
        body: Json = {'project': self.id, 'url': backend['url'], 'title': title, **_login(user, password)}
        await self.connection.request('PATCH', f'/api/ml/{backend["id"]}', json=body)

    async def delete_backend(self, backend_id: int) -> None:
        await self.connection.request('DELETE', f'/api/ml/{backend_id}')

    async def webhooks(self) -> list[Json]:
        return await self._list('/api/webhooks/')

    async def save_webhook(self, *, url: str, headers: Mapping[str, str]) -> Json:
        """Create a webhook for all actions, or change the one with the same address."""
        body: Json = {
            'project': self.id,
            'url': url,
            'headers': dict(headers),
            'send_payload': True,
            'send_for_all_actions': True,
            'is_active': True,
        }
        return await self._save('/api/webhooks/', '/', with_address(await self.webhooks(), url), body)

    async def change_webhook(self, webhook: Json, **fields: Any) -> None:
        """Change a webhook, such as its `headers`.

        :param webhook: the webhook as `webhooks` lists it; Label Studio drops its actions unless they are sent again.
        """
        body = {'actions': webhook.get('actions', [])} | fields
        await self.connection.request('PATCH', f'/api/webhooks/{webhook["id"]}/', json=body)

    async def delete_webhook(self, webhook_id: int) -> None:
        await self.connection.request('DELETE', f'/api/webhooks/{webhook_id}/')

    # ------------------------------------------------------------ local files

    async def local_storages(self) -> list[Json]:
        """Return the folders that Label Studio serves for this project."""
        return await self._list('/api/storages/localfiles/')

    async def serve_folder(self, path: str, *, title: str) -> Json:
        """Add a storage through which Label Studio serves a local folder; syncing the storage creates no tasks.

        :param path: path as Label Studio sees it, below its LOCAL_FILES_DOCUMENT_ROOT.
        :raises InvalidRequest: the folder is missing or not below the root, or Label Studio serves no local files.
        """
        body = {'project': self.id, 'path': path, 'title': title, 'use_blob_urls': True, 'regex_filter': _NOTHING}
        return await self._object('POST', '/api/storages/localfiles/', json=body)

    async def _save(self, path: str, end: str, known: Sequence[Json], body: Json) -> Json:
        """Change the first known object, or create one.

        :param end: end of the path of an existing object.
        """
        if known:
            return await self._object('PATCH', f'{path}{known[0]["id"]}{end}', json=body)
        return await self._object('POST', path, json=body)

    async def _object(self, method: str, path: str, **options: Any) -> Json:
        return await self.connection.request_object(method, path, **options)

    async def _list(self, path: str, **params: int) -> list[Json]:
        answer: list[Json] = await self.connection.get_json(path, project=self.id, **params)
        return answer


def with_address(items: Iterable[Json], url: str) -> list[Json]:
    """Return the backends or webhooks with this `url`, with or without a slash at the end."""
    return [item for item in items if str(item.get('url')).rstrip('/') == url.rstrip('/')]


def _login(user: str | None, password: str | None) -> Json:
    if user is None:
        return {'auth_method': 'NONE'}
    return {'auth_method': 'BASIC_AUTH', 'basic_auth_user': user, 'basic_auth_pass': password}
