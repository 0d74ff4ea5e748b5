"""All settings: environment variables and a file `.env`, read once, checked and documented.

The variables of learning_loop_node, such as `LOOP_*` and `DATA_FOLDER`, are read here as well, and
`detector.loop.upstream` passes them on. No other module reads the environment.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from platformdirs import user_data_path
from pydantic import (
    AliasChoices,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from .environment import is_own_address, variable_read
from .errors import InvalidSettings
from .setting_types import (
    IN_LOWER_CASE,
    IN_UPPER_CASE,
    Fraction,
    HeaderToken,
    Hosts,
    HostsOrAny,
    LoopHost,
    Moment,
    Origins,
)

_LOGIN: Final = re.compile(r'(?<=://)[^\s"\'<>]*@|(?<!\S)[^/\s@:]+:[^\s@]+@')
"""User name and password in an address with or without a scheme."""


def default_data_folder() -> Path:
    """Return the user's data folder for this project, the default of DATA_FOLDER."""
    return user_data_path('wholebody')


class Settings(BaseSettings):
    """All settings. The settings reference in the documentation shows the description of each field.

    :raises pydantic.ValidationError: a value is unknown or has the wrong type; `load_settings` makes one line of each.
    """

    model_config = SettingsConfigDict(
        env_file='.env', env_ignore_empty=True, extra='ignore', frozen=True, populate_by_name=True
    )

    # Learning Loop
    loop_host: LoopHost = Field(
        None,
        validation_alias=AliasChoices('LOOP_HOST', 'HOST'),
        description='Learning Loop to follow and to send images to. Unset: no Loop is contacted and no image is stored',
    )
    loop_organization: str = Field(
        'local',
        validation_alias=AliasChoices('LOOP_ORGANIZATION', 'ORGANIZATION'),
        description='Organization in the Loop',
    )
    loop_project: str = Field(
        'wholebody', validation_alias=AliasChoices('LOOP_PROJECT', 'PROJECT'), description='Project in the Loop'
    )
    loop_username: str = Field(
        '', validation_alias=AliasChoices('LOOP_USERNAME', 'USERNAME'), description='User name in the Loop'
    )
    loop_password: SecretStr = Field(
        SecretStr(''), validation_alias=AliasChoices('LOOP_PASSWORD', 'PASSWORD'), description='Password in the Loop'
    )
    loop_ssl_cert_path: Path | None = Field(
        None, description="File with the certificate that the Loop's certificate is verified with"
    )
    version_control_default: Annotated[Literal['follow_loop', 'pause'], IN_LOWER_CASE] = Field(
        'follow_loop', description='`follow_loop`: follow the deployment target; `pause`: keep the current model'
    )
    poll_seconds: float = Field(
        5, ge=0.1, description='Seconds between two checks of the deployment target (one cycle)'
    )
    sync_cycles: int = Field(6, ge=1, description='Number of cycles between two status reports to the Loop')
    skip_repeat_on_start: bool = Field(
        False, description='Start without contact to the Loop until `PUT /socketio` turns it on'
    )

    # Outbox and relevance
    upload_seconds: float = Field(
        5, ge=0.05, le=3600, description='Seconds between two uploads while fewer images than a batch wait'
    )
    max_outbox_size: int = Field(
        1000, ge=1, description='Images of normal priority that may wait for upload. Above it, the oldest are dropped'
    )
    max_outbox_mib: int = Field(
        4096, ge=1, description='MiB that waiting images may use. Above it, the oldest of normal priority are dropped'
    )
    min_uncertain_threshold: Fraction = Field(0.3, description='Lowest confidence that counts as uncertain')
    max_uncertain_threshold: Fraction = Field(0.6, description='Highest confidence that counts as uncertain')
    relevance_reset_seconds: float = Field(
        3600, gt=0, description='Seconds after which an uncertain pose that was not seen again counts as new'
    )
    random_upload_share: Fraction = Field(
        0,
        description='Share of all images, chosen at random, that is also uploaded, with the tag `random`, for an '
        'unbiased evaluation',
    )

    # Node
    node_name: str = Field('wholebody', min_length=1, description='Name of the node in the Loop')
    node_version: str | None = Field(None, description='Version of the node in the Loop')
    node_host: str = Field('0.0.0.0', description='Address to bind to')
    backend_port: int = Field(
        8004,
        ge=1,
        le=65535,
        validation_alias=AliasChoices('BACKEND_PORT', 'NODE_PORT'),
        description='Port to bind to',
    )
    data_folder: Path = Field(
        default_factory=default_data_folder,
        description='Folder for installed models, outbox and node id (in the image `/data`)',
    )
    debug: bool = Field(
        False,
        description='Log at level DEBUG instead of `LOG_LEVEL`, and log what blocks the event loop for over 0.1 s',
    )
    log_level: Annotated[Literal['DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL'], IN_UPPER_CASE] = Field(
        'INFO', description='Lowest level of the messages that are logged'
    )
    log_format: Annotated[Literal['console', 'json'], IN_LOWER_CASE] = Field(
        'console', description='Form of log lines: `console` for people, `json` for one object per line'
    )
    use_backdoor_controls: bool = Field(
        False, description='Add `POST /reset`, which deletes `DATA_FOLDER`; for tests only'
    )

    # Model and engine
    mode: Annotated[Literal['starter', 'test-card', 'lightweight', 'balanced', 'performance'], IN_LOWER_CASE] = Field(
        'starter',
        description='Model to serve if no model is installed. `starter` finds people in photographs, `test-card` reads '
        'test cards; the others are published models, which are downloaded while the starter serves',
    )
    model_catalogue: Path | None = Field(
        None, description='Catalogue of published models to use instead of `model_files/catalogue.json`'
    )
    keep_models: int = Field(3, ge=1, description='Number of installed versions to keep, including the current one')
    exclusive_model_build: bool = Field(
        False, description='Unload the old model before the new one is loaded (for small GPUs)'
    )
    trial_seconds: float = Field(
        300, gt=0, description='Time limit for the trial inference of a new model package, in seconds'
    )
    backend_type: Annotated[Literal['auto', 'onnxruntime', 'openvino', 'opencv'], IN_LOWER_CASE] = Field(
        'auto', description='Inference runtime; `auto` takes the fastest one on this machine'
    )
    precision: Annotated[Literal['auto', 'f32', 'bf16', 'f16'], IN_LOWER_CASE] = Field(
        'auto',
        description='Precision; `auto` takes the fastest one whose keypoints agree with those of f32. `bf16` and `f16` '
        'need OpenVINO and a device that supports them',
    )
    precision_agreement: Fraction = Field(
        0.99,
        description='Mean OKS to f32 on photographs from which `PRECISION=auto` takes a lower precision. A single '
        'person may fall short of 1 by five times as much',
    )
    device: Annotated[str, IN_LOWER_CASE] = Field(
        'cpu',
        pattern=r'^(cpu|cuda(:\d+)?|tensorrt(:\d+)?|mps|gpu|npu)$',
        description='Device: `cpu`, `cuda`, `cuda:N`, `tensorrt`, `tensorrt:N`, `mps` (CoreML), or `gpu`, `npu` '
        '(OpenVINO)',
    )
    confidence_threshold: Fraction = Field(
        0.3, description='Keypoints with a lower confidence are neither drawn nor labelled in Label Studio'
    )
    person_threshold: Fraction | None = Field(
        None,
        description='Boxes with a lower confidence are not answered. Unset: the threshold of the model package',
    )
    nms_threshold: Fraction | None = Field(
        None,
        description='IoU above which the less certain of two boxes is dropped. Unset: the threshold of the '
        'model package. Without effect on detectors that drop overlapping boxes themselves',
    )
    max_persons: int = Field(
        50, ge=1, le=1000, description='Largest number of persons per image; the most certain ones are kept'
    )
    max_image_pixels: int = Field(64_000_000, ge=64, description='Larger images are refused before they are decoded')
    detection_interval: int = Field(
        1,
        ge=1,
        le=100,
        description='Run the person detector on every n-th frame of a `camera_id`; between, persons are followed',
    )
    deadline: float = Field(
        5, gt=0, le=600, description='Seconds after which a request that still waits for its turn is refused'
    )
    max_waiting: int = Field(
        16, ge=1, le=1000, description='Requests that may wait for their turn; further ones are refused with 503'
    )

    # Limits and access
    max_requests: int = Field(
        100, ge=1, le=10_000, description='Concurrent HTTP requests except probes; further ones are refused with 503'
    )
    max_body_mib: int = Field(
        65, ge=1, le=4096, description="MiB of a request's body (twice as much for Label Studio's tasks)"
    )
    body_seconds: float = Field(
        60, gt=0, le=3600, description='Time limit for receiving a body or the parts of an event, in seconds'
    )
    max_tasks: int = Field(10_000, ge=1, description='Number of tasks in one `/predict`')
    max_clients: int = Field(64, ge=1, le=10_000, description='Number of concurrent Socket.IO clients')
    max_frame_mib: int = Field(65, ge=1, le=1024, description='MiB of one Socket.IO message')
    max_in_flight_mib: int = Field(
        1024,
        ge=1,
        description='MiB of all requests and Socket.IO events in progress together; further ones are refused with 503. '
        'A single one may always use its own limit',
    )
    api_token: HeaderToken = Field(
        None,
        description='Token required by all requests that carry images or change something. Unset: no token is required',
    )
    cors_origins: Origins = Field(
        '',
        description='Origins of web pages that may use the node: `https://host:port`, comma separated, or `*`. Needed '
        "for other origins, and for the node's own pages behind a proxy with another name. Unset: only the node's own",
    )

    # Label Studio
    label_studio_url: str | None = Field(
        None, pattern=r'^https?://', description='Address of Label Studio, e.g. `http://localhost:8080`'
    )
    label_studio_api_token: SecretStr | None = Field(
        None, description='API token of Label Studio, legacy or personal access token'
    )
    label_studio_hostnames: Hosts = Field(
        '',
        description="Other names of Label Studio in tasks' addresses: `host` or `host:port`, comma separated",
    )
    basic_auth_user: str | None = Field(
        None, description="User name that Label Studio's requests must carry; requires BASIC_AUTH_PASS"
    )
    basic_auth_pass: SecretStr | None = Field(None, description="Password that Label Studio's requests must carry")
    catch_up_seconds: float = Field(
        300,
        ge=0,
        le=86400,
        description='Interval in seconds for asking Label Studio for annotations that no webhook has reported, for '
        'corrections; 0: never',
    )
    corrections_since: Moment = Field(
        None,
        description='Annotations of projects that are new to the node are sent if they were changed after this time, '
        'e.g. `2026-01-31T12:00`, in UTC unless it has an offset; unset: if they are changed after the first contact',
    )
    predict_seconds: float = Field(
        85, gt=0, le=3600, description='Seconds in which `/predict` answers; Label Studio gives up after 100'
    )
    image_hosts: HostsOrAny = Field(
        '*',
        description='Other hosts that task images may come from: `host`, `host:port`, comma separated; `*` for any '
        'public host (private ones must be listed as well); `none` for no other host',
    )
    image_seconds: float = Field(20, gt=0, le=600, description='Time limit for fetching one task image, in seconds')

    @model_validator(mode='before')
    @classmethod
    def _ignore_own_address_as_loop(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Ignore HOST if it is an address to bind to or a name of this machine."""
        host = os.environ.get('HOST')
        if 'LOOP_HOST' in os.environ or not host or values.get('LOOP_HOST') != host or not is_own_address(host):
            return values
        return {name: value for name, value in values.items() if name != 'LOOP_HOST'}

    @field_validator('data_folder')
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        return folder.expanduser().absolute()

    @model_validator(mode='after')
    def _consistent(self) -> Self:
        if self.min_uncertain_threshold > self.max_uncertain_threshold:
            raise ValueError('MIN_UNCERTAIN_THRESHOLD is above MAX_UNCERTAIN_THRESHOLD')
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            raise ValueError('BASIC_AUTH_USER and BASIC_AUTH_PASS must be set together')
        if self.loop_host is not None:
            for field in ('loop_organization', 'loop_project'):
                if field not in self.model_fields_set:
                    raise ValueError(f'{field.upper()} must be set if {_loop_variable(self.loop_host)}')
        return self

    @property
    def loop_url(self) -> str | None:
        """Base address of the Loop. Without a scheme, https is used for learning-loop.ai only, like upstream."""
        if self.loop_host is None or '://' in self.loop_host:
            return self.loop_host
        return f'{"https" if "learning-loop.ai" in self.loop_host else "http"}://{self.loop_host}'

    @property
    def label_studio_login(self) -> tuple[str, str] | None:
        """User name and password that Label Studio's requests must carry: BASIC_AUTH_*, or else API_TOKEN."""
        if self.basic_auth_user is not None and self.basic_auth_pass is not None:
            return self.basic_auth_user, self.basic_auth_pass.get_secret_value()
        return None if self.api_token is None else ('label-studio', self.api_token.get_secret_value())

    @property
    def request_headers(self) -> dict[str, str]:
        """Headers that this project's own commands send to a running node."""
        return {} if self.api_token is None else {'Authorization': f'Bearer {self.api_token.get_secret_value()}'}

    @property
    def outbox_folder(self) -> Path:
        return self.data_folder / 'outbox'

    def make_data_folder(self) -> None:
        """Create DATA_FOLDER if it is missing, and check that it is writable.

        :raises InvalidSettings: the folder cannot be written.
        """
        try:
            self.data_folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.data_folder):
                pass
        except OSError as error:
            raise InvalidSettings(
                f'DATA_FOLDER={self.data_folder}: cannot be written: {error.strerror}; the node keeps models and '
                'images for the Loop there, so name a folder that its user may write'
            ) from None

    @property
    def effective_log_level(self) -> str:
        return 'DEBUG' if self.debug else self.log_level


def environment_name(field: str) -> str:
    """Return the environment variable of a settings field."""
    return field.upper()


def load_settings(**overrides: object) -> Settings:
    """Read the environment and `.env`.

    :param overrides: values for fields, e.g. from the command line.
    :raises InvalidSettings: one line per setting that cannot be used.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InvalidSettings('\n'.join(_explain(problem) for problem in error.errors())) from None


def _loop_variable(host: str) -> str:
    """Return the condition under which the Loop's settings are required, with the variable that names the Loop."""
    name = _variable_of('LOOP_HOST')
    return 'LOOP_HOST is set' if name == 'LOOP_HOST' else f'{name}={host} names the Learning Loop; else unset {name}'


def _variable_of(name: str) -> str:
    """Return the variable that a setting comes from: its own name, or the alias that is set."""
    aliases = (info.validation_alias for info in Settings.model_fields.values())
    names = next((alias.choices for alias in aliases if isinstance(alias, AliasChoices) and name in alias.choices), [])
    return variable_read(list(map(str, names))) or name


def _explain(problem: object) -> str:
    assert isinstance(problem, dict)
    name = _variable_of(environment_name(str(problem['loc'][0]))) if problem['loc'] else ''
    value = problem.get('input')
    shown = f'={without_logins(value)}' if isinstance(value, str) and name not in secret_names() else ''
    message = str(problem['msg']).removeprefix('Value error, ')
    return f'{name}{shown}: {message}' if name else message


def secret_names() -> set[str]:
    """Return the environment variables that hold credentials, with their aliases."""
    names: set[str] = set()
    for field, info in Settings.model_fields.items():
        if info.annotation in (SecretStr, SecretStr | None):
            alias = info.validation_alias
            names |= {environment_name(field), *(map(str, alias.choices) if isinstance(alias, AliasChoices) else ())}
    return names


def without_logins(text: str) -> str:
    """Return a text with `user:password@` removed from its addresses."""
    return _LOGIN.sub('…@', text)
