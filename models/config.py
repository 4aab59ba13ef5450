"""Hyper-parameters, frozen, with their published presets.  No torch: commands read this for `--help`."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, Self

import msgspec

from stream_app.core.errors import BundleError, ConfigurationError
from stream_app.core.records import UNREADABLE

Cell = Literal["gru", "rnn"]
Embedding = Literal["constrained", "separate", "one-hot"]
Loss = Literal["cross-entropy", "bpr-max"]
Precision = Literal["float32", "bfloat16"]


class ModelConfig(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="architecture",
):
    """What all networks are told.  Each kind raises `ConfigurationError` naming every field that does not fit."""

    epochs: int = 10
    """Passes over the sessions."""
    learning_rate: float = 0.1
    """As the kind of network means it."""
    seed: int = 42
    precision: Precision = "float32"
    """bfloat16: products of matrices in half precision where the processor has them (AMX); sums,
    weights and everything else stay float32."""

    @property
    def architecture(self) -> str:
        """`gru4rec`, ...: what a bundle's manifest calls it."""
        return str(self.__struct_config__.tag)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    def changed(self, **changes: object) -> Self:
        """A copy with some fields changed; unknown names and bad values raise `ConfigurationError`."""
        try:
            return msgspec.convert({**msgspec.to_builtins(self), **changes}, type(self))
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"hyper-parameters: {error}") from error

    def _problems(self) -> list[str]:
        return _misfits(
            self,
            (
                ("precision", "float32 or bfloat16", self.precision in ("float32", "bfloat16")),
                ("epochs", "at least 1", self.epochs >= 1),
                ("seed", "at least 0", self.seed >= 0),
            ),
        )


class GRU4RecConfig(
    ModelConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="gru4rec"
):
    """GRU4Rec as in 1511.06939 (network, batches) and 1706.03847 (negatives, losses)."""

    cell: Cell = "gru"
    layers: int = 1
    """Recurrent layers on top of each other; each adds one state tensor to a session."""
    units: int = 100
    """Hidden units of each layer, and the length of an item's vector."""
    embedding: Embedding = "constrained"
    """constrained: the output matrix is the input embedding; separate: two matrices; one-hot: the
    first layer has one row of gate inputs per item."""
    loss: Loss = "cross-entropy"
    batch_size: int = 64
    """Sessions advanced together (session-parallel); also the in-batch negatives, plus one."""
    n_sample: int = 2048
    """Further negatives per step, shared by the batch."""
    sample_alpha: float = 0.5
    """They are drawn by support ** sample_alpha: 0 uniform, 1 by popularity."""
    dropout_embedding: float = 0.0
    dropout_hidden: float = 0.2
    """On each layer's new hidden state; the dropped state is what the session carries on."""
    learning_rate: float = 0.1
    momentum: float = 0.0
    bpreg: float = 1.0
    """BPR-max: weight of the score regularisation."""
    elu_param: float = 0.5
    """BPR-max: alpha of the ELU on scores; 0 leaves them linear."""
    logq: float = 1.0
    """Cross-entropy: strength of the sampling correction of the logits, in training only."""

    def __post_init__(self) -> None:
        problems = self._problems() + _misfits(
            self,
            (
                ("cell", "gru or rnn", self.cell in ("gru", "rnn")),
                ("embedding", _EMBEDDINGS_TEXT, self.embedding in _EMBEDDINGS),
                ("loss", "cross-entropy or bpr-max", self.loss in ("cross-entropy", "bpr-max")),
                ("layers", "1 to 8", 1 <= self.layers <= 8),
                ("units", "1 to 4096", 1 <= self.units <= 4096),
                ("batch_size", "at least 1", self.batch_size >= 1),
                ("n_sample", "at least 0", self.n_sample >= 0),
                ("sample_alpha", "0 to 1", 0 <= self.sample_alpha <= 1),
                ("dropout_embedding", "at least 0, below 1", 0 <= self.dropout_embedding < 1),
                ("dropout_hidden", "at least 0, below 1", 0 <= self.dropout_hidden < 1),
                ("learning_rate", "above 0", 0 < self.learning_rate < float("inf")),
                ("momentum", "at least 0, below 1", 0 <= self.momentum < 1),
                ("bpreg", "at least 0", 0 <= self.bpreg < float("inf")),
                ("elu_param", "at least 0", 0 <= self.elu_param < float("inf")),
                ("logq", "at least 0", 0 <= self.logq < float("inf")),
            ),
        )
        if self.batch_size == 1 and self.n_sample == 0:
            problems.append("batch_size 1 with n_sample 0 leaves no negatives: raise one of them")
        _refuse(problems)


_EMBEDDINGS: Final = ("constrained", "separate", "one-hot")
_EMBEDDINGS_TEXT: Final = "constrained, separate or one-hot"


class CosineGRUConfig(
    ModelConfig, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cosine-gru"
):
    """A GRU over whole sessions whose scores are cosines (`models.cosine_gru`)."""

    units: int = 128
    """Hidden units, and the length of an item's vector."""
    history_items: int = 8
    """Last clicks that every score looks at again, besides the GRU's state."""
    temperature: float = 0.08
    """Cosines are divided by it: the smaller, the more the softmax looks at the best."""
    batch_clicks: int = 960
    """Next clicks learned from together, of whole sessions."""
    session_clicks_max: int = 20
    """Of a longer session the last so many next clicks are learned from."""
    n_sample: int = 2048
    """Further negatives per step, shared by the batch, besides the items of its sessions."""
    sample_alpha: float = 0.5
    """They are drawn by support ** sample_alpha: 0 uniform, 1 by popularity."""
    dropout_items: float = 0.2
    """On the vectors of clicked items."""
    learning_rate: float = 0.004
    """Adam's, at its highest; it falls to 0 along a cosine."""
    warm_up: float = 0.05
    """Share of the training in which the learning rate rises."""
    epochs: int = 5
    precision: Precision = "bfloat16"

    def __post_init__(self) -> None:
        problems = self._problems() + _misfits(
            self,
            (
                ("units", "1 to 4096", 1 <= self.units <= 4096),
                ("history_items", "1 to 100", 1 <= self.history_items <= 100),
                ("temperature", "0.05 to 10", 0.05 <= self.temperature <= 10),
                ("batch_clicks", "at least 1", self.batch_clicks >= 1),
                ("session_clicks_max", "at least 1", self.session_clicks_max >= 1),
                ("n_sample", "at least 1", self.n_sample >= 1),
                ("sample_alpha", "0 to 1", 0 <= self.sample_alpha <= 1),
                ("dropout_items", "at least 0, below 1", 0 <= self.dropout_items < 1),
                ("learning_rate", "above 0", 0 < self.learning_rate < float("inf")),
                ("warm_up", "0 to 1", 0 <= self.warm_up <= 1),
            ),
        )
        _refuse(problems)


AnyModelConfig = GRU4RecConfig | CosineGRUConfig
ARCHITECTURES: Final[Mapping[str, type[ModelConfig]]] = MappingProxyType(
    {str(kind.__struct_config__.tag): kind for kind in (GRU4RecConfig, CosineGRUConfig)}
)
"""By name."""


def config_of(fields: object) -> ModelConfig:
    """A configuration from what `to_json` wrote, decoded: of a manifest, say.

    Without `architecture` it is GRU4Rec's, as all were before there were two.  Raises `BundleError` where
    a value does not fit.
    """
    if isinstance(fields, dict) and "architecture" not in fields:
        fields = {"architecture": "gru4rec", **fields}
    try:
        config: ModelConfig = msgspec.convert(fields, AnyModelConfig)
    except (ConfigurationError, *UNREADABLE) as error:
        raise BundleError(f"the model's hyper-parameters are unreadable: {error}") from error
    return config


def config_from_json(data: bytes) -> ModelConfig:
    """The same from bytes."""
    try:
        fields = msgspec.json.decode(data)
    except UNREADABLE as error:
        raise BundleError(f"the model's hyper-parameters are unreadable: {error}") from error
    return config_of(fields)


def _misfits(config: msgspec.Struct, checks: Iterable[tuple[str, str, bool]]) -> list[str]:
    """checks: field, what it must be, whether it is."""
    return [
        f"{name} is {getattr(config, name)!r}, it must be {what}"
        for name, what, fits in checks
        if not fits
    ]


def _refuse(problems: list[str], of: str = "hyper-parameters") -> None:
    if problems:
        raise ConfigurationError(f"{of}: " + "; ".join(problems))


def _bpr_max(
    units: int, batch: int, emb: float, momentum: float, alpha: float, **rest: float
) -> GRU4RecConfig:
    return GRU4RecConfig(
        loss="bpr-max",
        units=units,
        batch_size=batch,
        dropout_embedding=emb,
        momentum=momentum,
        sample_alpha=alpha,
        learning_rate=0.05,
        logq=0.0,
        dropout_hidden=rest.get("hid", 0.0),
        bpreg=rest["bpreg"],
        elu_param=rest["elu"],
    )


PRESETS: Final = MappingProxyType(
    {
        "yoochoose": GRU4RecConfig(
            units=480, batch_size=48, dropout_hidden=0.2, learning_rate=0.07, sample_alpha=0.2
        ),
        "rees46": GRU4RecConfig(
            units=512,
            batch_size=240,
            dropout_embedding=0.45,
            dropout_hidden=0.0,
            learning_rate=0.065,
        ),
        "coveo": _bpr_max(512, 144, 0.35, 0.4, 0.2, bpreg=1.85, elu=1.0),
        "retailrocket": _bpr_max(224, 80, 0.5, 0.4, 0.4, hid=0.05, bpreg=1.95, elu=0.5),
        "diginetica": _bpr_max(512, 128, 0.5, 0.15, 0.3, hid=0.3, bpreg=0.9, elu=1.0),
        "rsc15": GRU4RecConfig(
            units=100, batch_size=32, dropout_hidden=0.4, learning_rate=0.2, momentum=0.2
        ),
    }
)
"""The best published parameters by data set (Hidasi & Czapp 2023, 2307.14951); 10 epochs each,
constrained embeddings, 2,048 negatives."""


def preset(name: str) -> GRU4RecConfig:
    """One of `PRESETS`; `ConfigurationError` names them all for any other name."""
    try:
        return PRESETS[name.lower()]
    except KeyError:
        names = ", ".join(PRESETS)
        raise ConfigurationError(f"unknown preset {name!r}: choose one of {names}") from None


class Item2VecConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """item2vec (Barkan & Koenigstein 2016, 1603.04259): word2vec with sessions as sentences."""

    architecture: Literal["skip-gram", "cbow"] = "skip-gram"
    dim: int = 64
    window: int = 5
    """Items this far apart in a session are each other's context."""
    n_sample: int = 64
    """Negatives per batch, shared by its pairs."""
    negative_weight: float = 5.0
    """What those weigh together against one positive: word2vec's `k`."""
    sample_alpha: float = 0.75
    subsample: float = 1e-3
    """Share of clicks above which an item is thinned out; 0 keeps every click."""
    learning_rate: float = 0.1
    batch_size: int = 4096
    """Pairs (skip-gram) or clicks (CBOW) per step."""
    epochs: int = 5
    seed: int = 42

    def __post_init__(self) -> None:
        checks = (
            ("architecture", "skip-gram or cbow", self.architecture in ("skip-gram", "cbow")),
            ("dim", "1 to 4096", 1 <= self.dim <= 4096),
            ("window", "1 to 100", 1 <= self.window <= 100),
            ("n_sample", "at least 1", self.n_sample >= 1),
            ("negative_weight", "above 0", self.negative_weight > 0),
            ("sample_alpha", "0 to 1", 0 <= self.sample_alpha <= 1),
            ("subsample", "0 to 1", 0 <= self.subsample <= 1),
            ("learning_rate", "above 0", self.learning_rate > 0),
            ("batch_size", "at least 1", self.batch_size >= 1),
            ("epochs", "at least 1", self.epochs >= 1),
        )
        _refuse(_misfits(self, checks), of="item2vec")
