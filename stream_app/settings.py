"""Every setting of nextclick, once: flag over environment over `nextclick.toml` over default.

A setting has one dotted name everywhere: `kafka.bootstrap_servers` is the flag
`--kafka-bootstrap-servers` (or `--set kafka.bootstrap_servers=...`), the variable
`NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS` and `bootstrap_servers` under `[kafka]` in the file.
Read once, in the CLI, and passed down; nothing else looks at the environment.
"""

import difflib
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    model_validator,
)

from stream_app.core.errors import ConfigurationError
from stream_app.core.pipeline import ServingRules
from stream_app.core.session import SessionLimits
from stream_app.core.statistics_recipe import StatisticsRecipe

ENVIRONMENT_PREFIX: Final = "NEXTCLICK_"
SETTINGS_FILE: Final = "nextclick.toml"
SECRETS: Final = frozenset({"kafka.sasl_password", "gateway.token"})
"""Never a flag, because every user of the machine sees a process's arguments; never in a message."""

_LISTS: Final = frozenset(
    {
        "serving.event_types",
        "gateway.cors_origins",
        "gateway.hosts",
        "gateway.trusted_proxies",
        "statistics.half_lives_minutes",
        "statistics.pair_half_lives_minutes",
        "statistics.pair_weights",
        "refresh.learning_rate_factors",
    }
)
_SECRET_BYTES_MAX: Final = 4096
_FILE_BYTES_MAX: Final = 2**20


class Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class KafkaSettings(Group):
    bootstrap_servers: str = "localhost:9092"
    """Brokers to ask first, `host:port`, comma-separated."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to talk to the broker."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    """How to prove who we are, where the protocol is SASL_*."""
    sasl_username: str = ""
    """User name for SASL."""
    sasl_password: str = Field(default="", repr=False)
    """Password for SASL; from the environment or `sasl_password_file`, never a flag."""
    sasl_password_file: Path | None = None
    """File that holds the SASL password."""
    ssl_cafile: Path | None = None
    """Certificate authority of the broker's certificate, PEM; the system's when unset."""
    ssl_certfile: Path | None = None
    """Our own certificate, PEM, where the broker asks for one."""
    ssl_keyfile: Path | None = None
    """Key of our own certificate, PEM."""
    client_id: str = "nextclick"
    """Name we show to the broker."""
    group_id: str = "nextclick-worker"
    """Consumer group of the workers; other processes append their own name."""
    group_instance_id: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,249}$")
    """Name of this worker in its group, no other's (a pod's name); empty: made up once, and kept in `data_dir`."""
    session_timeout_seconds: float = Field(default=10.0, ge=6, le=40)
    """A worker that is silent for so long loses its partitions to others."""


class TopicSettings(Group):
    clicks: str = "nextclick.clicks.v1"
    """Clicks come from here."""
    recommendations: str = "nextclick.recommendations.v1"
    """Answers go here, partition by partition."""
    dead_letters: str = "nextclick.clicks.v1.dlq"
    """Clicks that cannot be used go here, untouched, with the reason."""
    releases: str = "nextclick.model-releases.v1"
    """Which model version is live (compacted)."""
    sessions: str = "nextclick.sessions.v1"
    """Changelog of the session states (compacted)."""
    statistics: str = "nextclick.item-statistics.v1"
    """What the aggregator learned of the items (compacted)."""
    items: str = "nextclick.items.v1"
    """What the shop says of its items, clicked or not (compacted); may stay empty."""
    partitions: int = Field(default=4, ge=1, le=10_000)
    """Partitions of clicks, recommendations and sessions where we create them; fixed afterwards."""
    replication: int = Field(default=1, ge=1, le=10)
    """Copies of each partition where we create topics."""


class ServingSettings(Group):
    top_k: int = Field(default=20, ge=1, le=1000)
    """Items in a recommendation."""
    batch_clicks_max: int = Field(default=512, ge=1, le=4096)
    """Clicks taken together; larger shares the item matrix, smaller answers sooner."""
    filter_seen: bool = False
    """Leave out what the session clicked already: visitors of shops come back to it, those of news sites do not
    (`nextclick evaluate --tune` says which a log is of)."""
    answer_newest_only: bool = False
    """Under a backlog, answer only the newest click of a session in a batch; states stay exact."""
    event_types: tuple[str, ...] = ("view_item",)
    """Event types that are clicks; others are archived, and ignored by the worker."""
    event_time_ahead_hours_max: float = Field(default=24.0, gt=0)
    """An event time further ahead of Kafka's timestamp is a bad record."""
    dead_letters_in_a_row_max: int = Field(default=1000, ge=1)
    """So many dead letters without one good click between halt the worker: the decoder is wrong, not the clicks."""
    state_write_interval_ms: int = Field(default=20, ge=0, le=1000)
    """States of batches answered meanwhile are written together; longer saves CPU at low rates, and repeats
    more answers after a crash."""
    commit_interval_ms: int = Field(default=200, ge=10, le=60_000)
    """How often finished clicks are committed."""
    standby_copies: int = Field(default=0, ge=0, le=1)
    """Other workers that keep each partition's sessions up to date in their own data_dir, for a quick fail-over."""
    on_lost_clicks: Literal["continue", "halt"] = "continue"
    """Where the topic's retention deleted clicks before they were read: say so and go on, or halt."""
    state_ttl_hours: float = Field(default=24.0, gt=0)
    """A session idle for so long (event time) is removed from state and changelog."""
    releases_poll_seconds: float = Field(default=1.0, gt=0)
    """How often to look for a newly promoted model."""


class MetricsSettings(Group):
    host: str = "127.0.0.1"
    """Address `/metrics`, `/healthz` and `/readyz` listen on."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port they listen on; 0 takes a free one and logs it."""


class StatisticsSettings(Group):
    half_life_minutes: float = Field(default=60.0, gt=0)
    """A click counts half after so long (event time), in lists of the most popular items."""
    half_lives_minutes: tuple[PositiveFloat, ...] = Field(default=(2.5, 10.0, 60.0), max_length=16)
    """Further half-lives of popularity, comma-separated, for models that rank by them."""
    follow_up_half_life_minutes: float = Field(default=7.5, gt=0)
    """Half-life of the popularity of follow-up clicks (a session's second and later), the prior of co-occurrence."""
    pair_half_lives_minutes: tuple[PositiveFloat, ...] = Field(
        default=(20.0, 43_200.0), min_length=1, max_length=8
    )
    """Half-lives of co-occurrence (which items are clicked in one session), comma-separated."""
    pair_weights: tuple[PositiveFloat, ...] = (0.5, 0.5)
    """What each of them weighs in a score, comma-separated."""
    pair_positions: int = Field(default=4, ge=1, le=64)
    """Clicks of a session are pairs up to so many positions apart; as many last items an answer looks at."""
    pair_position_decay: float = Field(default=0.5, ge=0, le=1)
    """One position further away weighs so much of the nearer one."""
    pair_backward: float = Field(default=0.2, ge=0, le=1)
    """Weight of a pair read backward; forward it is 1."""
    neighbours_max: int = Field(default=100, ge=1, le=10_000)
    """Co-occurring items kept for each item, 12 bytes each."""
    prior_clicks: float = Field(default=5.0, gt=0)
    """An item's co-occurrence is mixed with so many clicks' worth of popularity."""
    publish_seconds: float = Field(default=2.0, ge=0.1, le=60)
    """How often changes are published, 1 to 10 where many items change; each publication is one version."""
    items_max: int = Field(default=1_000_000, ge=100, le=2**27)
    """Items counted at most; the least popular are dropped first."""
    sessions_max: int = Field(default=200_000, ge=1)
    """Sessions whose last items are remembered, shared out among the partitions; about 0.6 kB each."""

    @model_validator(mode="after")
    def _one_weight_each(self) -> Self:
        if len(self.pair_weights) != len(self.pair_half_lives_minutes):
            raise ValueError("pair_weights needs one value for each of pair_half_lives_minutes")
        return self


class ArchiveSettings(Group):
    flush_seconds: float = Field(default=30.0, gt=0)
    """A file is closed after so long at the latest."""
    flush_clicks: int = Field(default=200_000, ge=1)
    """Or after so many clicks of one partition."""


class GatewaySettings(Group):
    host: str = "127.0.0.1"
    """Address the gateway listens on."""
    port: int = Field(default=8480, ge=0, le=65535)
    """Port it listens on; 0 takes a free one and logs it."""
    hosts: tuple[str, ...] = ()
    """Names it may be called by, comma-separated; empty: loopback's own while it listens there only, else any."""
    token: str = Field(default="", repr=False, pattern=r"^([!-~]{16,})?$")
    """Who calls must show this (`Authorization: Bearer ...`), 16 characters or more; empty: nobody is asked.  From the
    environment or `token_file`, never a flag."""
    token_file: Path | None = None
    """File that holds the token."""
    cors_origins: tuple[str, ...] = ()
    """Origins (`https://shop.example`) whose pages may call it, comma-separated."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses of proxies that are believed who the client is (`X-Forwarded-For`), comma-separated."""
    requests_per_second_max: float = Field(default=1000.0, ge=0)
    """Of one client address, with so many more at once; 0: no limit."""
    connections_max: int = Field(default=2000, ge=10)
    """Open connections; one above it gets status 503."""
    idle_seconds_max: float = Field(default=30.0, gt=0)
    """A connection that sends no request for so long is closed; so is a request that takes so long to send."""
    body_bytes_max: int = Field(default=65_536, ge=1024, le=1_000_000)
    """Size of a click."""
    store_ms_max: int = Field(default=10_000, ge=100, le=60_000)
    """Kafka has so long to confirm a click, then the caller is told that it may be lost (status 503)."""
    wait_ms_max: int = Field(default=5_000, ge=0, le=60_000)
    """A caller may wait so long for the answer to its click."""
    live_clients_max: int = Field(default=100, ge=1)
    """Readers of the live feed."""
    live_session_ids: bool = False
    """Name sessions in the live feed; otherwise they are pseudonyms."""
    remembered_answers_max: int = Field(default=40_000, ge=100)
    """Newest answers kept in memory for `/v1/sessions` (about 2 kB each); half of them for sessions that click here."""
    simulator_report: Path | None = None
    """File that `nextclick simulate --report` writes: the live feed tells the best possible hit rate from it."""


class RetrainSettings(Group):
    window_days: float = Field(default=14.0, gt=0)
    """Train on so many newest days of the click log."""
    holdout_share: float = Field(default=0.1, gt=0, lt=0.9)
    """Share of sessions, the newest, held out to judge candidate, live model and popularity."""
    holdout_clicks_max: int = Field(default=5_000, ge=100)
    """Hold out no more than so many next clicks: enough to judge by, and the rest is learned at once."""
    clicks_max: int = Field(default=5_000_000, ge=1_000)
    """Hold so many newest clicks of the window in memory (about 100 bytes each)."""
    items_max: int = Field(default=1_000_000, ge=1)
    """A model knows so many items at most: the most clicked of the window.  The others are answered for by the
    statistics."""
    item_clicks_min: int = Field(default=1, ge=1)
    """A model knows an item once it was clicked so often in the window."""
    cold_items_max: int = Field(default=10_000, ge=0)
    """So many items that nobody clicked, the most recently described in topic `topics.items`, join a model by what
    is said of them."""
    cold_item_boost: float = Field(default=1.0, ge=0, le=10)
    """GRU4Rec scores them by so much higher than items like them: the average one would not be listed."""
    sessions_min: int = Field(default=200, ge=1)
    """Wait for so many sessions of two clicks or more before the first training."""
    epochs: int = Field(default=6, ge=1)
    """Passes over the sessions of the window, from scratch."""
    session_clicks_max: int = Field(default=1_000_000, ge=0, le=20_000_000)
    """Newest clicks whose sessions a second stage finds neighbours in (session-kNN), about 40 bytes of a worker's
    memory each; 0: it does without."""
    threads: int = Field(default=1, ge=1, le=256)
    """Cores a training uses."""
    architecture: Literal["gru4rec", "cosine-gru"] = "gru4rec"
    """Kind of network: GRU4Rec as published, or a GRU over whole sessions whose scores are cosines."""
    layer_units: int = Field(default=100, ge=1, le=4096)
    """Hidden units; 100 keep a session record within 400 bytes."""
    warm_start: bool = True
    """Start from the live model's weights."""
    warm_epochs: int = Field(default=2, ge=1)
    """Passes over what a warm start learns from; more, up to `epochs`, while that is little."""
    replay_clicks: int = Field(default=500_000, ge=0)
    """A warm start learns from the new sessions and evenly from old ones, so many clicks in all."""
    gate_tolerance: float = Field(default=0.02, ge=0, lt=1)
    """A candidate may lose so much of the live model's Recall@20 (relative), or one standard error on the
    held-out clicks if that is more, to noise and still pass."""
    second_stage: bool = True
    """Learn a ranker over the candidates of model and statistics, too; it goes along where it is better."""
    second_stage_refresh_minutes: float = Field(default=5.0, ge=0)
    """The ranker learns over a model that is refreshed so often through the held-out clicks (at most 16 times), as
    `nextclick refresh --every 5m` will keep it; 0: over one that stays as it was trained."""
    approximate_scoring: bool = False
    """Score a catalogue of 300,000 items or more by clusters: several times faster, a few items of a list in a
    hundred missing.  The share is measured at each export and stands in the manifest (`scoring`)."""


class RefreshSettings(Group):
    window_hours: float = Field(default=24.0, gt=0)
    """Old sessions to learn again come from so many hours of the click log."""
    clicks_max: int = Field(default=500_000, ge=1_000)
    """Hold so many newest clicks of the window in memory (about 150 bytes each)."""
    replay_share: float = Field(default=0.3, ge=0)
    """Learn so many clicks of old sessions with each new one, so that nothing is forgotten."""
    epochs: int = Field(default=2, ge=1)
    """Passes over new and old sessions."""
    learning_rate_factors: tuple[PositiveFloat, ...] = Field(
        default=(1.0, 0.4), min_length=1, max_length=5
    )
    """Fine-tune at so much of the full training's learning rate; of several each is tried, and the best on the
    newest new clicks goes on.  News moves fast, a shop slowly, and both by the hour."""
    least_change: float = Field(default=0.02, ge=0, lt=1)
    """An item whose vector moved by less than this share of its length stays as the full training left it, so
    that a delta is small."""
    holdout_share: float = Field(default=0.15, gt=0, lt=0.9)
    """Share of the new sessions, the newest, that a fine-tuned model is judged on before it learns them."""
    holdout_clicks_max: int = Field(default=1_000, ge=30)
    """Judge on no more than so many next clicks."""
    targets_min: int = Field(default=50, ge=30)
    """Wait until so many next clicks are there to judge on."""
    settled_clicks: int = Field(default=30, ge=1)
    """A described item that is new since the full training stays where its description put it until it was clicked
    so often (within refresh.window_hours): the first few clicks say less of it."""
    deltas_kept: int = Field(default=288, ge=1)
    """Refreshed models beyond the registry's so many newest models are deleted; a day's worth at one every five
    minutes.  What they answered can be computed anew as long."""


class Settings(Group):
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings = TopicSettings()
    registry: str = "nextclick-data/registry"
    """Directory or URL of the model bundles."""
    click_log: str = "nextclick-data/click-log"
    """Directory or URL of the archived clicks (Parquet by day)."""
    data_dir: Path = Path("nextclick-data/worker")
    """RocksDB and scratch, one directory per process."""
    shared_data_dir: Path | None = None
    """Replicas of the worker share this directory: each takes a numbered one in it that no other holds as its
    `data_dir`, and finds what was left there."""
    session: SessionLimits = SessionLimits()
    serving: ServingSettings = ServingSettings()
    metrics: MetricsSettings = MetricsSettings()
    statistics: StatisticsSettings = StatisticsSettings()
    archive: ArchiveSettings = ArchiveSettings()
    gateway: GatewaySettings = GatewaySettings()
    retrain: RetrainSettings = RetrainSettings()
    refresh: RefreshSettings = RefreshSettings()
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line that is written."""


def serving_rules(settings: Settings) -> ServingRules:
    """The part of the settings that decides what an answer is."""
    return ServingRules(
        limits=settings.session,
        top_k=settings.serving.top_k,
        filter_seen=settings.serving.filter_seen,
        event_types=frozenset(settings.serving.event_types),
        ahead_ms_max=settings.serving.event_time_ahead_hours_max * 3_600_000,
    )


def statistics_recipe(settings: Settings) -> StatisticsRecipe:
    """The part of the settings that decides what the same clicks are counted as."""
    counted = settings.statistics.model_dump(exclude={"publish_seconds"})
    return StatisticsRecipe(**counted, idle_gap_minutes=settings.session.idle_gap_minutes)


def known_names(model: type[Any] = Settings, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings."""
    for name, default in _fields(model):
        if _is_group(default):
            yield from known_names(type(default), f"{prefix}{name}.")
        else:
            yield prefix + name


def load_settings(
    flags: Mapping[str, Any],
    *,
    environment: Mapping[str, str] = os.environ,
    file: Path | None = None,
) -> Settings:
    """Merge the four sources.  flags: values by dotted name (None: not given).

    file: a settings file that must exist; by default `nextclick.toml` of the working directory, if
    it is there.  Raises `ConfigurationError` naming every unknown setting, with the nearest known
    one, and every value that does not fit.
    """
    names = set(known_names())
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    unknown: list[str] = []

    def take(name: str, value: Any, source: str) -> None:
        if name in names:
            values[name], origin[name] = value, source
        else:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            unknown.append(f"{source}: unknown setting {name}{hint}")

    for name, value in _from_file(file):
        take(name, value, str(file or SETTINGS_FILE))
    for variable, text in sorted(environment.items()):
        if variable.startswith(ENVIRONMENT_PREFIX):
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            take(name, text, f"environment variable {variable}")
    for name, value in flags.items():
        if name in SECRETS:
            raise ConfigurationError(
                f"{name} is no flag, because every user of this machine can read the arguments of a "
                f"process: set {variable_of(name)}, or {name}_file"
            )
        if value is not None:
            take(name, value, f"flag for {name}")
    if unknown:
        raise ConfigurationError("\n".join(unknown))

    tree: dict[str, Any] = {}
    for name, value in values.items():
        branch = tree
        *groups, leaf = name.split(".")
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = _split_list(name, value)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            source = next((origin[n] for n in origin if name.startswith(n)), name)
            got = "" if _holds_secret(name) else f", got {problem['input']!r}"
            lines.append(f"{source}: {name}: {problem['msg']}{got}")
        # Its text repeats what was given, so it does not come along.
        raise ConfigurationError("\n".join(lines)) from None
    return _with_secrets(settings)


def loose_files(
    settings: Settings, *, file: Path | None = None, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """A warning for each file that holds a secret and that others than its owner can read.

    file: the settings file, as in `load_settings`.
    """
    holders = {"kafka.ssl_keyfile": settings.kafka.ssl_keyfile}
    for name in sorted(SECRETS):
        secret_file = _value(settings, f"{name}_file")
        if secret_file is not None:
            holders[f"{name}_file"] = secret_file
        elif _value(settings, name) and not environment.get(variable_of(name)):
            holders["settings file"] = file or Path(SETTINGS_FILE)
    found = []
    for what, path in holders.items():
        try:
            mode = path.stat().st_mode if path is not None else 0
        except OSError:
            continue
        if stat.S_ISREG(mode) and mode & 0o077:
            found.append(
                f"{what} {path} holds a secret and is open to others (mode {mode & 0o777:04o}): "
                f"chmod 600 {path}"
            )
    return found


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return ENVIRONMENT_PREFIX + name.upper().replace(".", "__")


def _holds_secret(name: str) -> bool:
    """Whether a value of that setting, or of the group, is or contains a secret."""
    return any(f"{secret}.".startswith(f"{name}.") for secret in SECRETS) or any(
        name.startswith(f"{secret}.") for secret in SECRETS
    )


def secrets_of(settings: Settings) -> list[str]:
    """The secrets themselves: for whoever keeps them out of logs."""
    return [secret for name in sorted(SECRETS) if (secret := _value(settings, name))]


def _value(settings: Settings, name: str) -> Any:
    group, _, leaf = name.partition(".")
    return getattr(getattr(settings, group), leaf)


def _with_secrets(settings: Settings) -> Settings:
    """Where a file holds a secret, the secret; checked like one that was given."""
    for name in sorted(SECRETS):
        file = _value(settings, f"{name}_file")
        if file is not None:
            group, _, leaf = name.partition(".")
            held = getattr(settings, group).model_dump() | {
                leaf: _read_secret(f"{name}_file", file)
            }
            try:
                settings = settings.model_copy(
                    update={group: type(getattr(settings, group)).model_validate(held)}
                )
            except ValidationError as error:
                raise ConfigurationError(f"{name}_file: {error.errors()[0]['msg']}") from None
    return settings


def _read_secret(name: str, file: Path) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(_SECRET_BYTES_MAX + 1)
        secret = raw.decode().strip()
    except OSError as error:
        raise ConfigurationError(f"{name}: {error}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"{name} {file} is not UTF-8: write the secret and nothing else"
        ) from None
    if len(raw) > _SECRET_BYTES_MAX:
        raise ConfigurationError(
            f"{name} {file} is larger than {_SECRET_BYTES_MAX} bytes: name the file that holds the "
            "secret and nothing else"
        )
    return secret


def _fields(model: type[Any]) -> Iterator[tuple[str, Any]]:
    if issubclass(model, BaseModel):
        for name, field in model.model_fields.items():
            yield name, field.default
    else:
        for name, field in model.__dataclass_fields__.items():
            yield name, field.default


def _is_group(default: Any) -> bool:
    return isinstance(default, BaseModel) or hasattr(default, "__dataclass_fields__")


def _split_list(name: str, value: Any) -> Any:
    """Lists are written with commas in flags and variables."""
    if name in _LISTS and isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _from_file(file: Path | None) -> list[tuple[str, Any]]:
    path = file or Path(SETTINGS_FILE)
    if file is None and not path.is_file():
        return []
    try:
        with path.open("rb") as stream:
            raw = stream.read(_FILE_BYTES_MAX + 1)
        if len(raw) > _FILE_BYTES_MAX:
            raise ConfigurationError(f"settings file {path} is larger than {_FILE_BYTES_MAX} bytes")
        tree = tomllib.loads(raw.decode())
    except OSError as error:
        raise ConfigurationError(f"settings file {path}: {error.strerror}") from error
    except RecursionError:
        raise ConfigurationError(f"settings file {path} is nested too deeply") from None
    except ValueError as error:  # TOML's own errors, bad UTF-8, numbers of thousands of digits
        raise ConfigurationError(f"settings file {path}: {error}") from error

    def flatten(branch: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in branch.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{name}.")
            else:
                yield prefix + name, value

    return list(flatten(tree, ""))
