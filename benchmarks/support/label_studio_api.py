"""Client for a running Label Studio."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

Json = dict[str, Any]


class Refused(AssertionError):
    """Label Studio answered with an error; the message contains its text."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f'{answer.request.method} {answer.url}: {answer.status_code} {answer.text[:2000]}')
        self.status = answer.status_code


class LabelStudio:
    """A running server and a client that is signed in as its user.

    :param token: legacy token of the user, which this client does not need.
    :param files: root folder of local files; a task refers to one as `/data/local-files/?d=<path in this folder>`.
    """

    def __init__(self, url: str, *, email: str, password: str, token: str, files: Path, log: Path) -> None:
        self.url = url
        self.email = email
        self.password = password
        self.token = token
        self.files = files
        self.log = log
        self.http = httpx.Client(base_url=url, timeout=200)  # a backend may take 100 seconds
        self._personal_token: str | None = None

    def __enter__(self) -> Self:
        page = self.http.get('/user/login/')
        secret = {'csrfmiddlewaretoken': page.cookies['csrftoken']}
        answer = self.http.post('/user/login/', data={'email': self.email, 'password': self.password} | secret)
        assert answer.status_code == 302, answer.text
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and return the JSON of the answer, None if it is empty.

        :raises Refused: the answer is an error.
        """
        answer = self.ask(method, path, **options)
        if not answer.is_success:
            raise Refused(answer)
        return answer.json() if answer.content else None

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request and return the answer, even if it is an error."""
        headers = {'X-CSRFToken': self.http.cookies['csrftoken']}
        return self.http.request(method, path, headers=headers, **options)

    def personal_token(self) -> str:
        """Return the user's personal access token; a user has only one."""
        if self._personal_token is None:
            self._personal_token = str(self.request('POST', '/api/token')['token'])
        return self._personal_token

    def legacy_tokens(self, enabled: bool) -> None:
        """Allow or forbid legacy tokens. This client works either way."""
        settings = {'api_tokens_enabled': True, 'legacy_api_tokens_enabled': enabled}
        self.request('POST', '/api/jwt/settings', json=settings)

    def create_project(self, label_config: str, **fields: Any) -> 'Project':
        """Create a project.

        :param fields: such as `title`, `sampling`, `evaluate_predictions_automatically`.
        """
        project = self.request('POST', '/api/projects', json={'title': 'test', 'label_config': label_config} | fields)
        return Project(self, int(project['id']))


class Project:
    """A project of a running server."""

    def __init__(self, server: LabelStudio, project_id: int) -> None:
        self.server = server
        self.id = project_id

    # ------------------------------------------------------------ tasks

    def upload(self, images: Sequence[tuple[str, bytes]]) -> list[int]:
        """Upload image files and return the ids of their tasks.

        :param images: names and contents.
        """
        files = [(f'file{index}', image) for index, image in enumerate(images)]
        return self._import(files=files)

    def import_tasks(self, data: Sequence[Json]) -> list[int]:
        """Import tasks and return their ids.

        :param data: e.g. `{'image': url}`, or `{'data': {…}, 'predictions': […], 'annotations': […]}`.
        """
        return self._import(json=list(data))

    def _import(self, **options: Any) -> list[int]:
        wanted = {'return_task_ids': 'true'}
        answer = self.server.request('POST', f'/api/projects/{self.id}/import', params=wanted, **options)
        return [int(task_id) for task_id in answer['task_ids']]

    def add_local_files(self, folder: Path) -> None:
        """Create a task for each file in a folder in `LabelStudio.files`."""
        storage = {'project': self.id, 'path': str(folder), 'use_blob_urls': True}
        created = self.server.request('POST', '/api/storages/localfiles', json=storage)
        self.server.request('POST', f'/api/storages/localfiles/{created["id"]}/sync')

    def tasks(self) -> list[Json]:
        """Return all tasks with predictions, annotations and drafts, without requests to a backend.

        (Listing by a project with `evaluate_predictions_automatically` would send requests to the backend.)
        """
        listed = {'project': self.id, 'fields': 'all', 'page_size': -1}
        tasks: list[Json] = self.server.request('GET', '/api/tasks', params=listed)['tasks']
        return sorted(tasks, key=lambda task: int(task['id']))

    def open_task(self, task_id: int) -> Json:
        """Return a task as the editor gets it; Label Studio may request predictions from a backend."""
        task: Json = self.server.request('GET', f'/api/tasks/{task_id}', params={'project': self.id})
        return task

    # ------------------------------------------------------------ predictions

    def predictions(self) -> list[Json]:
        """Return all predictions in the order of their ids."""
        predictions: list[Json] = self.server.request('GET', '/api/predictions', params={'project': self.id})
        return sorted(predictions, key=lambda prediction: int(prediction['id']))

    def import_predictions(self, predictions: Sequence[Json]) -> int:
        """Import predictions and return how many were stored. Label Studio drops invalid ones silently.

        :param predictions: `{'task': id, 'result': […], 'score': …, 'model_version': …}`.
        """
        answer = self.server.request('POST', f'/api/projects/{self.id}/import/predictions', json=list(predictions))
        return int(answer['created'])

    def retrieve_predictions(self, task_ids: Sequence[int]) -> Json:
        """Run the data manager's "Retrieve Predictions": one request to the backend for all these tasks.

        :raises Refused: a strict server found an invalid prediction; it then stores none.
        """
        return self._act('retrieve_tasks_predictions', task_ids)

    def accept_predictions(self, task_ids: Sequence[int] | None = None, **options: Any) -> Json:
        """Run the data manager's "Create Annotations From Predictions".

        :param task_ids: None for all.
        :param options: `model_version`.
        """
        return self._act('predictions_to_annotations', task_ids, **options)

    def _act(self, action: str, task_ids: Sequence[int] | None, **options: Any) -> Json:
        chosen: Json = {'all': True} if task_ids is None else {'all': False, 'included': list(task_ids)}
        body = {'selectedItems': chosen, 'project': self.id} | options
        named = {'id': action, 'project': self.id}
        answer: Json = self.server.request('POST', '/api/dm/actions', params=named, json=body)
        return answer

    # ------------------------------------------------------------ annotations

    def annotate(self, task_id: int, result: Sequence[Json], *, was_cancelled: bool = False) -> Json:
        """Submit an annotation.

        :param was_cancelled: True to skip the task instead.
        """
        body = {'result': list(result), 'was_cancelled': was_cancelled, 'lead_time': 1}
        annotation: Json = self.server.request('POST', f'/api/tasks/{task_id}/annotations/', json=body)
        return annotation

    def annotations(self, task_id: int) -> list[Json]:
        """Return the submitted annotations of a task in the order of their ids."""
        annotations: list[Json] = self.server.request('GET', f'/api/tasks/{task_id}/annotations/')
        return sorted(annotations, key=lambda annotation: int(annotation['id']))

    def export(self, export_type: str = 'JSON') -> bytes:
        """Export all tasks in a format such as JSON, COCO (a zip file) or YOLO_WITH_IMAGES."""
        wanted = {'exportType': export_type, 'download_all_tasks': 'true'}
        answer = self.server.ask('GET', f'/api/projects/{self.id}/export', params=wanted)
        if not answer.is_success:
            raise Refused(answer)
        return answer.content

    # ------------------------------------------------------------ backends

    def connect(
        self,
        url: str,
        *,
        basic_auth: tuple[str, str] | None = None,
        title: str | None = None,
        interactive: bool = True,
        **fields: Any,
    ) -> int:
        """Connect a machine learning backend and return its id.

        :param title: becomes the project's `model_version`.
        :param fields: other fields, such as `extra_params`.
        :raises Refused: Label Studio cannot reach it, may not contact it, or its credentials are wrong.
        """
        body = {'project': self.id, 'url': url, 'title': title or 'backend', 'is_interactive': interactive} | fields
        if basic_auth is not None:
            user, password = basic_auth
            body |= {'auth_method': 'BASIC_AUTH', 'basic_auth_user': user, 'basic_auth_pass': password}
        return int(self.server.request('POST', '/api/ml', json=body)['id'])

    def backend(self, backend_id: int) -> Json:
        """Return the state of a backend: CO connected, DI disconnected, ER error with `error_message`."""
        backend: Json = self.server.request('GET', f'/api/ml/{backend_id}')
        return backend

    def interactive(self, backend_id: int, task_id: int, context: Json) -> Json:
        """Request what the editor requests when an annotator draws with a smart tool."""
        path = f'/api/ml/{backend_id}/interactive-annotating'
        answer: Json = self.server.request('POST', path, json={'task': task_id, 'context': context})
        return answer

    def train(self, backend_id: int) -> None:
        """Send START_TRAINING."""
        self.server.request('POST', f'/api/ml/{backend_id}/train', json={'use_ground_truth': False})

    # ------------------------------------------------------------ the project

    def settings(self) -> Json:
        settings: Json = self.server.request('GET', f'/api/projects/{self.id}')
        return settings

    def change(self, **fields: Any) -> Json:
        """Change settings such as `label_config`, `model_version`, `sampling`."""
        settings: Json = self.server.request('PATCH', f'/api/projects/{self.id}', json=fields)
        return settings

    def webhooks(self) -> list[Json]:
        webhooks: list[Json] = self.server.request('GET', '/api/webhooks', params={'project': self.id})
        return webhooks

    def set_webhook_headers(self, headers: Mapping[str, str]) -> None:
        """Set headers for all webhooks of the project, e.g. an Authorization, which a backend's webhooks lack."""
        for webhook in self.webhooks():
            self.server.request('PATCH', f'/api/webhooks/{webhook["id"]}', json={'headers': dict(headers)})
