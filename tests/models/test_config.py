"""Hyper-parameters: the published ones, and what is refused."""

import pytest

from models.config import PRESETS, GRU4RecConfig, Item2VecConfig, config_from_json, preset
from stream_app.core.errors import BundleError, ConfigurationError


def test_the_presets_are_the_published_table() -> None:
    """2307.14951: loss, units, batch, dropouts, learning rate, momentum, alpha, bpreg, elu, logq."""
    published = {
        "yoochoose": ("cross-entropy", 480, 48, 0, 0.2, 0.07, 0, 0.2, None, None, 1),
        "rees46": ("cross-entropy", 512, 240, 0.45, 0, 0.065, 0, 0.5, None, None, 1),
        "coveo": ("bpr-max", 512, 144, 0.35, 0, 0.05, 0.4, 0.2, 1.85, 1, 0),
        "retailrocket": ("bpr-max", 224, 80, 0.5, 0.05, 0.05, 0.4, 0.4, 1.95, 0.5, 0),
        "diginetica": ("bpr-max", 512, 128, 0.5, 0.3, 0.05, 0.15, 0.3, 0.9, 1, 0),
        "rsc15": ("cross-entropy", 100, 32, 0, 0.4, 0.2, 0.2, 0.5, None, None, 1),
    }
    assert set(PRESETS) == set(published)
    for name, (
        loss,
        units,
        batch,
        emb,
        hid,
        rate,
        momentum,
        alpha,
        bpreg,
        elu,
        logq,
    ) in published.items():
        config = preset(name)
        assert (config.loss, config.units, config.batch_size) == (loss, units, batch)
        assert (config.dropout_embedding, config.dropout_hidden) == (emb, hid)
        assert (config.learning_rate, config.momentum) == (rate, momentum)
        assert (config.sample_alpha, config.logq) == (alpha, logq)
        if loss == "bpr-max":
            assert (config.bpreg, config.elu_param) == (bpreg, elu)
        assert (config.epochs, config.embedding, config.n_sample) == (10, "constrained", 2048)
        assert (config.cell, config.layers) == ("gru", 1)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="diginetica"):
        preset("netflix")


def test_json_round_trip() -> None:
    config = preset("diginetica").changed(cell="rnn", layers=2)
    assert config_from_json(config.to_json()) == config


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"units": "many"}', b'{"unites": 3}', b'{"units": 0}']
)
def test_unreadable_json_is_a_bundle_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        config_from_json(data)


def test_every_bad_value_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        GRU4RecConfig(units=0, dropout_hidden=1.0, learning_rate=float("nan"), loss="hinge")  # type: ignore[arg-type]
    for name in ("units", "dropout_hidden", "learning_rate", "loss"):
        assert f"{name} is" in str(caught.value)


def test_a_change_is_checked_too() -> None:
    with pytest.raises(ConfigurationError):
        GRU4RecConfig().changed(epochs=0)
    with pytest.raises(ConfigurationError):
        GRU4RecConfig().changed(unit=5)


def test_a_batch_without_negatives_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no negatives"):
        GRU4RecConfig(batch_size=1, n_sample=0)


def test_item2vec_values_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="window"):
        Item2VecConfig(window=0)
