"""Every error that this project raises on purpose, each with the HTTP status that it is answered with.

WholebodyError
├── InvalidImage                400  the bytes are no image, or broken
│   ├── UnsupportedImageFormat  415  an image of a kind that is not accepted
│   └── ImageTooLarge           413  more bytes or pixels than the limit
├── RequestTooLarge             413  the request has more bytes or tasks than the limit
├── RequestTooSlow              408  the body of the request did not come in time
├── InvalidRequest              422  a field has the wrong type or value
│   └── InvalidPackage          422  a model package fails its verification
│       └── DamagedPackage      422  … since its bytes are not what they should be
├── Unauthorized                401  the token, or user name and password, are missing or wrong
├── ForeignOrigin               403  a web page of another origin asks, which may not
├── NotFound                    404  what the address names is not there (any more)
├── NoLearningLoop              409  the request needs a Learning Loop and none is configured
├── FolderInUse                 409  another process works in a folder
├── ModelUnavailable            503  no model serves (yet)
│   ├── InferenceFailed         503  the inference runtime fails while it runs
│   └── Busy                    503  too many requests or clients are before this one
│       └── DeadlineExceeded    503  the request waited too long for its turn
├── OutboxFault                 507  an image cannot be stored for the Learning Loop
├── LoopFault                   502  the Learning Loop does not answer as agreed
├── LabelStudioFault            502  Label Studio does not answer as agreed
│   └── NotInLabelStudio        502  … since it has no such task, annotation or project (any more)
├── MediaFault                  422  the image of a Label Studio task cannot be had
├── DownloadFailed              502  a file cannot be fetched from where it should be
├── RuntimeUnavailable          500  an inference runtime or device that was asked for is not there
├── ExtraMissing                500  a package that only an extra brings is not installed
└── InvalidSettings             500  a setting cannot be used; the node does not start
"""

from http import HTTPStatus
from typing import ClassVar


class WholebodyError(Exception):
    """Base of all errors of this project; its text says what the caller can change."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR


class InvalidImage(WholebodyError):
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
    """A model package that fails its verification; the text names the field or file and the reason."""


class DamagedPackage(InvalidPackage):
    """A package whose bytes are broken, as an interrupted or faulty transfer leaves them."""


class Unauthorized(WholebodyError):
    """Who asks is not known.

    :param challenge: what would be accepted, for the header WWW-Authenticate.
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

    def __init__(self, what: str) -> None:
        super().__init__(f'{what} needs a Learning Loop, and none is configured: set LOOP_HOST')


class FolderInUse(WholebodyError):
    """Another process works in a folder; the text says which."""

    status = HTTPStatus.CONFLICT


class ModelUnavailable(WholebodyError):
    status = HTTPStatus.SERVICE_UNAVAILABLE


class InferenceFailed(ModelUnavailable):
    """The runtime fails over an image although the model was sound, as when its device is gone."""


class Busy(ModelUnavailable):
    """A request that gets no turn.

    :param retry_after: seconds after which it may have better luck.
    :param reason: of a fixed set, for metrics: `queue_full`, `memory`, `deadline`, `replaced` or `ending`.
    """

    def __init__(self, message: str, *, retry_after: float, reason: str = 'queue_full') -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason


class DeadlineExceeded(Busy):
    """A request that could not start before its deadline."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message, retry_after=retry_after, reason='deadline')


class OutboxFault(WholebodyError):
    """The disk, or the outbox's limit, leaves no room for an image."""

    status = HTTPStatus.INSUFFICIENT_STORAGE


class LoopFault(WholebodyError):
    status = HTTPStatus.BAD_GATEWAY


class LabelStudioFault(WholebodyError):
    status = HTTPStatus.BAD_GATEWAY


class NotInLabelStudio(LabelStudioFault):
    """What was asked for is not there, or not for the user of the token."""


class MediaFault(WholebodyError):
    """The address in a task's data is refused, or nothing useful is found there; no secret is in the text."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class DownloadFailed(WholebodyError):
    status = HTTPStatus.BAD_GATEWAY


class RuntimeUnavailable(WholebodyError):
    """An inference runtime or device that was asked for is missing or does not work."""


class InvalidSettings(WholebodyError):
    """One or more settings cannot be used; one line each."""


class ExtraMissing(WholebodyError):
    """A package is not installed that an extra of this project brings."""

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; it comes with the extra `{extra}`: pip install '.[{extra}]', or "
            f'uv run --extra {extra} …'
        )
