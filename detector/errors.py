"""Every error that this project raises on purpose, with the HTTP status of its answer.

WholebodyError
├── InvalidImage                400  the bytes are not an image, or the image is broken
│   ├── UnsupportedImageFormat  415  the image has a format that is not accepted
│   └── ImageTooLarge           413  the image has more bytes or pixels than the limit
├── RequestTooLarge             413  the request has more bytes or tasks than the limit
├── RequestTooSlow              408  the body of the request did not arrive in time
├── InvalidRequest              422  a field has the wrong type or value
│   └── InvalidPackage          422  a model package fails its verification
│       └── DamagedPackage      422  … because its bytes are damaged
├── Unauthorized                401  the token, or the user name and password, is missing or wrong
├── ForeignOrigin               403  the request comes from a web page of an origin that is not allowed
├── NotFound                    404  the addressed object does not exist or no longer exists
├── NoLearningLoop              409  the request needs a Learning Loop and none is configured
├── FolderInUse                 409  another process uses the folder
├── ModelUnavailable            503  no model is loaded (yet)
│   ├── StarterUnavailable      503  the starter model is not built and cannot be
│   ├── InferenceFailed         503  the inference runtime fails during an inference
│   └── Busy                    503  too many requests or clients are ahead of this one
│       └── DeadlineExceeded    503  the request waited too long for its turn
├── OutboxFault                 507  an image cannot be stored for the Learning Loop
├── LoopFault                   502  the Learning Loop does not answer as agreed
├── LabelStudioFault            502  Label Studio does not answer as agreed
│   └── NotInLabelStudio        502  … because it has no such task, annotation or project
├── MediaFault                  422  the image of a Label Studio task cannot be fetched
├── DownloadFailed              502  a file cannot be downloaded
├── RuntimeUnavailable          500  the demanded inference runtime or device is missing or does not work
├── ExtraMissing                500  a package that belongs to an extra is not installed
└── InvalidSettings             500  a setting cannot be used; the node does not start
"""

from http import HTTPStatus
from typing import ClassVar, Self


class WholebodyError(Exception):
    """Base of all errors of this project. The text says what the caller can change."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR


class InvalidImage(WholebodyError):
    """The bytes are not an image, or the image is broken or not acceptable."""

    status = HTTPStatus.BAD_REQUEST


class UnsupportedImageFormat(InvalidImage):
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class ImageTooLarge(InvalidImage):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class RequestTooLarge(WholebodyError):
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class RequestTooSlow(WholebodyError):
    status = HTTPStatus.REQUEST_TIMEOUT


class InvalidRequest(WholebodyError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class InvalidPackage(InvalidRequest):
    """A model package fails its verification. The text names the field or file and the reason."""


class DamagedPackage(InvalidPackage):
    """The bytes of a package are damaged, for instance by an interrupted transfer."""


class Unauthorized(WholebodyError):
    """The client is not authenticated.

    :param challenge: value of the header WWW-Authenticate, which names the accepted scheme.
    """

    status = HTTPStatus.UNAUTHORIZED

    def __init__(self, message: str, *, challenge: str = 'Basic realm="wholebody"') -> None:
        super().__init__(message)
        self.challenge = challenge


class ForeignOrigin(WholebodyError):
    status = HTTPStatus.FORBIDDEN


class NotFound(WholebodyError):
    status = HTTPStatus.NOT_FOUND


class NoLearningLoop(WholebodyError):
    status = HTTPStatus.CONFLICT

    def __init__(self, what: str, need: str = 'needs a Learning Loop, and none is configured: set LOOP_HOST') -> None:
        super().__init__(f'{what} {need}')

    @classmethod
    def for_model(cls, version: str) -> Self:
        """Return the error for a model that is not installed."""
        return cls(
            f'model {version}',
            'is not installed: install it with `wholebody model install`, or set LOOP_HOST to fetch it',
        )


class FolderInUse(WholebodyError):
    """Another process uses a folder. The text names the process."""

    status = HTTPStatus.CONFLICT


class ModelUnavailable(WholebodyError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class StarterUnavailable(ModelUnavailable):
    """The starter model cannot be built. The text says what is missing, and the command that provides it."""


class InferenceFailed(ModelUnavailable):
    """The runtime fails during an inference although the model was sound, for instance because its device is gone."""


class Busy(ModelUnavailable):
    """A request gets no turn.

    :param retry_after: seconds after which a retry is likely to succeed.
    :param reason: label for metrics: `queue_full`, `memory`, `deadline`, `replaced` or `ending`.
    """

    def __init__(self, message: str, *, retry_after: float, reason: str = 'queue_full') -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason


class DeadlineExceeded(Busy):
    """A request could not start before its deadline."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, retry_after=retry_after, reason='deadline')


class OutboxFault(WholebodyError):
    """An image cannot be stored, because the disk is full or the outbox has reached its limit."""

    status = HTTPStatus.INSUFFICIENT_STORAGE


class LoopFault(WholebodyError):
    status = HTTPStatus.BAD_GATEWAY


class LabelStudioFault(WholebodyError):
    status = HTTPStatus.BAD_GATEWAY


class NotInLabelStudio(LabelStudioFault):
    """An object does not exist in Label Studio, or the user of the token may not see it."""


class MediaFault(WholebodyError):
    """The address in the data of a task is refused, or holds no usable image. The text contains no secret."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class DownloadFailed(WholebodyError):
    """A file cannot be downloaded.

    :param reason: what failed.
    :param url: address of the file, which the text then begins with.
    """

    status = HTTPStatus.BAD_GATEWAY

    def __init__(self, reason: str, *, url: str | None = None) -> None:
        super().__init__(reason if url is None else f'{url}: {reason}')
        self.reason = reason


class RuntimeUnavailable(WholebodyError):
    """The demanded inference runtime or device is missing or does not work."""


class InvalidSettings(WholebodyError):
    """One or more settings cannot be used. The message has one line per setting."""


class ExtraMissing(WholebodyError):
    """A package is not installed that belongs to an extra of this project."""

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f'{package} is not installed; it comes with the extra `{extra}`: uv run --extra {extra} …, or without uv: '
            f"pip install '{package}'"
        )


def text_of(error: Exception) -> str:
    """Return the text of an error, or its type if it has none, as some errors of httpx."""
    return str(error) or type(error).__name__
