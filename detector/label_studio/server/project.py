"""A project of Label Studio: its tasks, predictions, annotations, views, backends and webhooks."""

import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Self
from urllib.parse import quote, urlencode

from detector.errors import InvalidRequest, LabelStudioFault

from .client import Connection

Json = dict[str, Any]

_PAGE_TASKS: Final = 500
_PAGE_FULL_TASKS: Final = 50
"""With annotations and predictions, each of which may have a thousand regions."""
_NOTHING: Final = '(?!)'
"""A regular expression that matches no name."""
_ID: Final = re.compile(r'(\d+)|.*/projects/(\d+)(?:[/?#].*)?')


def _versions(operator: Literal['contains', 'not_contains'], model_version: str) -> Json:
    """A filter for tasks by the model versions of their predictions, in which Label Studio looks for parts of names."""
    return _filter('predictions_model_versions', operator, 'List', [model_version])


def _filter(column: str, operator: str, kind: str, value: object) -> Json:
    return {'filter': f'filter:tasks:{column}', 'operator': operator, 'type': kind, 'value': value}


def _has_longer(model_version: str, known: Iterable[str]) -> bool:
    """Whether there is a version that contains this one, which Label Studio's filter takes for the same."""
    return any(model_version in other and model_version != other for other in known)


class Project:
    """A project of the Label Studio behind a connection.

    Everything here raises the errors of `Connection.request`.
    """

    def __init__(self, connection: Connection, project_id: int) -> None:
        self.connection = connection
        self.id = project_id

    # ------------------------------------------------------------ the project

    @classmethod
    async def create(cls, connection: Connection, *, title: str, label_config: str, **fields: Any) -> Self:
        """:param fields: more of the project's, such as `sampling`."""
        body = {'title': title, 'label_config': label_config} | fields
        return cls(connection, int((await connection.request('POST', '/api/projects/', json=body))['id']))

    @classmethod
    async def titled(cls, connection: Connection, title: str) -> Self | None:
        """The project of a title, the newest of several; None if there is none."""
        found = [project async for project in _pages(connection, '/api/projects/', {'page_size': 100, 'title': title})]
        ids = [int(project['id']) for project in found if project.get('title') == title]
        return cls(connection, max(ids)) if ids else None

    async def settings(self) -> Json:
        """Title, labeling config, sampling, counts …"""
        return await self.connection.project(self.id)

    async def label_config(self) -> str:
        """The XML of its labeling config; empty if it has none."""
        return str((await self.settings()).get('label_config') or '')

    async def change(self, **fields: Any) -> Json:
        """Change settings, such as `label_config`, `model_version`, `sampling`."""
        return await self._object('PATCH', f'/api/projects/{self.id}/', json=fields)

    async def model_versions(self) -> dict[str, int]:
        """How many predictions there are by model version, the one with the newest prediction first."""
        path = f'/api/projects/{self.id}/model-versions/'
        answer = await self._object('GET', path, params={'extended': 'true'})
        found = sorted(answer.get('static') or (), key=lambda version: str(version.get('latest')), reverse=True)
        return {str(entry['model_version']): int(entry['count']) for entry in found if entry.get('model_version')}

    def page(self, **params: int) -> str:
        """The address of its data manager for a browser.

        :param params: e.g. `task`, `tab`.
        """
        query = f'?{urlencode(params)}' if params else ''
        return f'{str(self.connection.url).rstrip("/")}/projects/{self.id}/data{query}'

    # ------------------------------------------------------------ tasks

    async def tasks(self, *, full: bool = False, after: int = 0, filters: Sequence[Json] = ()) -> AsyncIterator[Json]:
        """The tasks in the order of their ids.

        :param full: with `annotations` and `predictions`, else without both.
        :param filters: that a task must pass, in the data manager's form. What is changed meanwhile must not change who
            passes.
        """
        params: dict[str, str | int] = {'page_size': _PAGE_TASKS}
        if full:
            params = {'page_size': _PAGE_FULL_TASKS, 'fields': 'all'}
        newer = [_filter('id', 'greater', 'Number', after)] if after else []
        async for task in self._listed(params, [*newer, *filters]):
            yield task

    async def _listed(self, params: Mapping[str, str | int], filters: Sequence[Json]) -> AsyncIterator[Json]:
        query: Json = {'ordering': ['tasks:id']}
        if filters:
            query['filters'] = {'conjunction': 'and', 'items': list(filters)}
        asked = {'project': self.id, 'query': json.dumps(query), 'resolve_uri': 'false', **params}
        page, seen = 1, 0
        while True:
            answer = await self._object('GET', '/api/tasks/', params=asked | {'page': page})
            for task in answer['tasks']:
                yield task
            page, seen = page + 1, seen + len(answer['tasks'])
            if seen >= answer['total'] or not answer['tasks']:
                return

    async def import_tasks(self, tasks: Sequence[Json]) -> list[int]:
        """Import tasks; their ids.

        :param tasks: `{'data': {…}}`, maybe with `meta`, `annotations` and `predictions`.
        """
        wanted = {'return_task_ids': 'true'}
        path = f'/api/projects/{self.id}/import'
        answer = await self._object('POST', path, params=wanted, json=list(tasks))
        return [int(task_id) for task_id in answer.get('task_ids', ())]

    async def upload_files(self, files: Iterable[tuple[str, bytes]]) -> list[tuple[int, str]]:
        """Upload files without making tasks of them; the ids and paths of the uploads, in the files' order.

        :param files: names and contents; Label Studio takes 100 of them, and 250 MiB.
        """
        content = [(f'file{index}', file) for index, file in enumerate(files)]
        path = f'/api/projects/{self.id}/import'
        answer = await self._object('POST', path, params={'commit_to_project': 'false'}, files=content)
        ids = answer.get('file_upload_ids', [])
        listed = await self.connection.get_json(f'/api/projects/{self.id}/file-uploads', ids=json.dumps(ids))
        paths = {int(upload['id']): str(upload['file']) for upload in listed}
        if len(ids) != len(content) or not paths.keys() >= set(ids):
            raise LabelStudioFault(f'{self.connection.url} does not say what it made of the uploaded files')
        # quoted as Label Studio itself writes the addresses of uploads
        start = f'{self.connection.prefix}/data/'
        return [(upload_id, start + quote(paths[upload_id], safe="/~!*()'")) for upload_id in ids]

    async def delete_uploads(self, upload_ids: Sequence[int]) -> None:
        """Delete uploaded files, of which no task may be left."""
        body = {'file_upload_ids': list(upload_ids)}
        await self.connection.request('DELETE', f'/api/projects/{self.id}/file-uploads', json=body)

    async def drafted(self) -> set[int]:
        """The ids of tasks that somebody works on without having submitted it."""
        unfinished = _filter('drafts', 'empty', 'Boolean', False)
        return {int(task['id']) async for task in self.tasks(filters=[unfinished])}

    async def delete_tasks(self, task_ids: Sequence[int]) -> None:
        """Delete tasks with all that they have; those that are gone already do not matter."""
        wanted: dict[str, str | int] = {'id': 'delete_tasks', 'project': self.id}
        body = {'project': self.id, 'selectedItems': {'all': False, 'included': list(task_ids)}}
        await self.connection.request('POST', '/api/dm/actions', params=wanted, json=body)

    async def change_task(self, task_id: int, **fields: Any) -> Json:
        """Change `data` or `meta` of a task, as a whole."""
        return await self._object('PATCH', f'/api/tasks/{task_id}/', json=fields)

    # ------------------------------------------------------------ predictions and annotations

    async def import_predictions(self, predictions: Sequence[Json]) -> int:
        """Store predictions.

        :param predictions: `{'task': id, 'result': […], 'score': …, 'model_version': …}`.
        :return: how many were stored; those that do not fit the labeling config are not, and Label Studio is silent.
        """
        body = list(predictions)
        return int((await self._object('POST', f'/api/projects/{self.id}/import/predictions', json=body))['created'])

    async def predictions(self, task_id: int) -> list[Json]:
        """All predictions of a task."""
        return await self._list('/api/predictions/', task=task_id)

    async def tasks_without(self, model_version: str) -> AsyncIterator[Json]:
        """The tasks that have no prediction of exactly this model version, which has no commas."""
        if _has_longer(model_version, await self.model_versions()):
            having = await self.tasks_with(model_version)
            async for task in self.tasks():
                if task['id'] not in having:
                    yield task
        else:
            async for task in self.tasks(filters=[_versions('not_contains', model_version)]):
                yield task

    async def tasks_with(self, model_version: str, *, within: tuple[int, int] | None = None) -> set[int]:
        """The tasks that have a prediction of exactly this model version, which has no commas.

        :param within: first and last id of the tasks that matter; None: all.
        """
        filters = [_versions('contains', model_version)]
        if within is not None:
            span = dict(zip(('min', 'max'), within, strict=True))
            filters.append(_filter('id', 'in', 'Number', span))
        params: dict[str, str | int] = {
            'page_size': _PAGE_TASKS,
            'fields': 'all',
            'include': 'id,predictions_model_versions',
        }
        return {
            int(task['id'])
            async for task in self._listed(params, filters)
            if model_version in str(task.get('predictions_model_versions') or '').split(',')
        }

    async def _count_with(self, model_version: str, known: Iterable[str]) -> int:
        """:param known: all model versions."""
        if _has_longer(model_version, known):
            return len(await self.tasks_with(model_version))
        query = {'filters': {'conjunction': 'and', 'items': [_versions('contains', model_version)]}}
        asked: dict[str, str | int] = {'project': self.id, 'page_size': 1, 'query': json.dumps(query)}
        return int((await self._object('GET', '/api/tasks/', params=asked))['total'])

    async def remove_surplus(self, model_version: str) -> int:
        """Leave the oldest prediction of a version where a task has several.

        A busy Label Studio on SQLite repeats requests inside itself, and stores again what it has stored.

        :return: how many were deleted.
        """
        counts = await self.model_versions()
        surplus = counts.get(model_version, 0) - await self._count_with(model_version, counts)
        deleted = 0
        if surplus > 0:
            async for task in self.tasks():
                if task['total_predictions'] > 1:
                    found = [one for one in await self.predictions(task['id']) if one['model_version'] == model_version]
                    for repeated in sorted(one['id'] for one in found)[1:]:
                        await self.delete_prediction(repeated)
                        deleted += 1
        return deleted

    async def change_prediction(self, prediction_id: int, **fields: Any) -> None:
        """Change, e.g., the `score`."""
        await self.connection.request('PATCH', f'/api/predictions/{prediction_id}/', json=fields)

    async def delete_prediction(self, prediction_id: int) -> None:
        await self.connection.request('DELETE', f'/api/predictions/{prediction_id}/')

    async def annotate(self, task_id: int, result: Sequence[Json]) -> Json:
        """Submit an annotation."""
        return await self._object('POST', f'/api/tasks/{task_id}/annotations/', json={'result': list(result)})

    # ------------------------------------------------------------ views, backends, webhooks

    async def views(self) -> list[Json]:
        """The tabs of the data manager."""
        return await self._list('/api/dm/views/')

    async def save_view(self, data: Json) -> Json:
        """Make a tab, or change the one of the same title.

        :param data: `title`, `ordering`, `filters` … in the data manager's form.
        """
        body = {'project': self.id, 'data': data}
        for view in await self.views():
            if view.get('data', {}).get('title') == data['title']:
                return await self._object('PATCH', f'/api/dm/views/{view["id"]}/', json=body)
        return await self._object('POST', '/api/dm/views/', json=body)

    async def backends(self) -> list[Json]:
        return await self._list('/api/ml/')

    async def save_backend(self, *, url: str, title: str, user: str | None, password: str | None) -> Json:
        """Connect a machine learning backend, or change the connection to the one at the same address.

        Label Studio asks the backend for its health before it answers.

        :param title: becomes the project's `model_version`.
        :param user: of the backend's basic auth; None: it has none.
        :raises InvalidRequest: Label Studio cannot reach the backend, may not contact it, or is refused there.
        """
        body: Json = {'project': self.id, 'url': url, 'title': title, 'is_interactive': True}
        if user is not None:
            body |= {'auth_method': 'BASIC_AUTH', 'basic_auth_user': user, 'basic_auth_pass': password}
        else:
            body |= {'auth_method': 'NONE'}
        for backend in await self.backends():
            if str(backend.get('url')).rstrip('/') == url.rstrip('/'):
                return await self._object('PATCH', f'/api/ml/{backend["id"]}', json=body)
        return await self._object('POST', '/api/ml/', json=body)

    async def webhooks(self) -> list[Json]:
        return await self._list('/api/webhooks/')

    async def save_webhook(self, *, url: str, headers: Mapping[str, str]) -> Json:
        """Make a webhook for all actions, or change the one of the same address."""
        body: Json = {
            'project': self.id,
            'url': url,
            'headers': dict(headers),
            'send_payload': True,
            'send_for_all_actions': True,
            'is_active': True,
        }
        for webhook in await self.webhooks():
            if str(webhook.get('url')).rstrip('/') == url.rstrip('/'):
                return await self._object('PATCH', f'/api/webhooks/{webhook["id"]}/', json=body)
        return await self._object('POST', '/api/webhooks/', json=body)

    async def change_webhook(self, webhook: Json, **fields: Any) -> None:
        """Change a webhook, such as its `headers`.

        :param webhook: as `webhooks` lists it; Label Studio forgets its actions unless they are sent again.
        """
        body = {'actions': webhook.get('actions', [])} | fields
        await self.connection.request('PATCH', f'/api/webhooks/{webhook["id"]}/', json=body)

    async def delete_webhook(self, webhook_id: int) -> None:
        await self.connection.request('DELETE', f'/api/webhooks/{webhook_id}/')

    # ------------------------------------------------------------ local files

    async def local_storages(self) -> list[Json]:
        """The folders that Label Studio serves for this project."""
        return await self._list('/api/storages/localfiles/')

    async def serve_folder(self, path: str, *, title: str) -> Json:
        """Let Label Studio serve a folder for this project; a sync of this storage makes no tasks.

        :param path: as Label Studio sees it, below its LOCAL_FILES_DOCUMENT_ROOT.
        :raises InvalidRequest: it is not there, not below, or local files are not served at all.
        """
        body = {'project': self.id, 'path': path, 'title': title, 'use_blob_urls': True, 'regex_filter': _NOTHING}
        return await self._object('POST', '/api/storages/localfiles/', json=body)

    async def _object(self, method: str, path: str, **options: Any) -> Json:
        return await self.connection.request_object(method, path, **options)

    async def _list(self, path: str, **params: int) -> list[Json]:
        answer: list[Json] = await self.connection.get_json(path, project=self.id, **params)
        return answer


async def _pages(connection: Connection, path: str, params: Mapping[str, str | int]) -> AsyncIterator[Json]:
    """The `results` of a paged list."""
    page = 1
    while True:
        answer = await connection.request('GET', path, params={**params, 'page': page})
        if not isinstance(answer, dict) or not isinstance(answer.get('results'), list):
            raise LabelStudioFault(f'{connection.url} answers {path} with something that is no list')
        for entry in answer['results']:
            yield entry
        if not answer.get('next'):
            return
        page += 1


def project_id_of(text: str) -> int:
    """The id in a project's number or address: `7`, `http://localhost:8080/projects/7/data?tab=1`.

    :raises InvalidRequest: neither.
    """
    found = _ID.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest(f'--project {text[:80]}: give the number of a project, as in its address /projects/7/')
    return int(found[1] or found[2])
