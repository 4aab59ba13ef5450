# ruff: noqa: E402 - torch is looked for first
"""The training loop: what it learns, what it repeats exactly, what it refuses."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the training environment")

from models.checkpoint import Checkpoint
from models.config import CosineGRUConfig, GRU4RecConfig, ModelConfig
from models.evaluate import evaluate_checkpoint
from models.progress import TrainingProgress
from models.train import TrainingDivergedError, train
from stream_app.core.errors import ConfigurationError
from stream_app.core.vocabulary import ItemVocabulary
from stream_app.evaluation.sessions import SessionTable

SMALL = GRU4RecConfig(
    units=16, batch_size=8, n_sample=16, learning_rate=0.1, momentum=0.1, epochs=3,
    dropout_hidden=0.2, dropout_embedding=0.1,
)  # fmt: skip


def table(sessions: list[list[int]]) -> SessionTable:
    starts = np.cumsum([0, *map(len, sessions)])
    items = np.array([item for session in sessions for item in session], dtype=np.int64)
    return SessionTable(items, starts, np.repeat(np.arange(len(sessions)), np.diff(starts)))


def vocabulary(n_items: int) -> ItemVocabulary:
    return ItemVocabulary(f"item-{i}" for i in range(n_items))


def random_sessions(n_sessions: int, n_items: int, seed: int = 0) -> SessionTable:
    rng = np.random.default_rng(seed)
    return table([rng.integers(0, n_items, rng.integers(2, 8)).tolist() for _ in range(n_sessions)])


def same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
@pytest.mark.parametrize("loss", ["cross-entropy", "bpr-max"])
@pytest.mark.parametrize("embedding", ["constrained", "separate", "one-hot"])
def test_a_cycle_is_learned_to_recall_1(cell: str, loss: str, embedding: str) -> None:
    """a b c d e a b c ...: every next click is known, from every starting point."""
    sessions = table([[(start + i) % 5 for i in range(6)] for start in range(5)] * 8)
    config = GRU4RecConfig(units=16, batch_size=5, n_sample=8, epochs=6, learning_rate=0.1)
    config = config.changed(cell=cell, loss=loss, embedding=embedding, sample_alpha=0.0)
    result = train(sessions, vocabulary(5), config)
    model = result.checkpoint.model()
    states = model.start_states(5)
    for step in range(5):
        clicked = (torch.arange(5) + step) % 5
        states = model.step(clicked, *states)
        assert model.scores(*states).argmax(dim=1).tolist() == ((clicked + 1) % 5).tolist()


@pytest.mark.parametrize("layers", [1, 2])
def test_what_came_before_the_last_click_is_remembered(layers: int) -> None:
    """After `a x` comes b, after `c x` comes d: only the hidden state can tell."""
    sessions = table([[0, 4, 1], [2, 4, 3]] * 40)
    config = GRU4RecConfig(
        units=16, layers=layers, batch_size=4, n_sample=8, epochs=10, learning_rate=0.1
    )
    checkpoint = train(sessions, vocabulary(5), config).checkpoint
    model = checkpoint.model()
    states = model.start_states(2)
    for clicked in ([0, 2], [4, 4]):
        states = model.step(torch.tensor(clicked), *states)
    assert model.scores(*states).argmax(dim=1).tolist() == [1, 3]


@pytest.mark.parametrize("loss", ["cross-entropy", "bpr-max"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(loss: str) -> None:
    sessions, config = random_sessions(60, 30), SMALL.changed(loss=loss)
    one, other = (train(sessions, vocabulary(30), config).checkpoint for _ in range(2))
    assert same_weights(one, other)
    different = train(sessions, vocabulary(30), config.changed(seed=7)).checkpoint
    assert not same_weights(one, different)


def test_a_training_killed_between_epochs_ends_as_if_it_never_was(tmp_path: Path) -> None:
    """Killed in the middle of epoch 3 of 4: resumed from the end of epoch 2, equal bit for bit."""
    sessions, config = random_sessions(60, 30), SMALL.changed(epochs=4)
    uninterrupted = train(sessions, vocabulary(30), config).checkpoint
    steps_left = 2 * uninterrupted.record.events // config.batch_size + 20

    class KilledError(Exception):
        pass

    def kill() -> bool:
        nonlocal steps_left
        steps_left -= 1
        if steps_left == 0:
            raise KilledError
        return False

    with pytest.raises(KilledError):
        train(sessions, vocabulary(30), config, resume_directory=tmp_path / "r", should_stop=kill)
    saved = [path.name for path in (tmp_path / "r").iterdir()]
    assert saved == ["epoch-2"]
    resumed = train(sessions, vocabulary(30), config, resume_directory=tmp_path / "r")
    assert resumed.events == 2 * uninterrupted.record.events
    assert same_weights(resumed.checkpoint, uninterrupted)
    assert resumed.checkpoint.record.epoch_losses == uninterrupted.record.epoch_losses


def test_resuming_refuses_another_trainings_directory(tmp_path: Path) -> None:
    sessions = random_sessions(30, 20)
    train(sessions, vocabulary(20), SMALL, resume_directory=tmp_path)
    with pytest.raises(ConfigurationError, match="other data or hyper-parameters"):
        train(sessions, vocabulary(20), SMALL.changed(units=8), resume_directory=tmp_path)
    with pytest.raises(ConfigurationError, match="other data or hyper-parameters"):
        train(random_sessions(30, 20, 1), vocabulary(20), SMALL, resume_directory=tmp_path)


def test_a_warm_start_keeps_what_was_learned_and_gives_new_items_rows() -> None:
    first = train(random_sessions(40, 20), vocabulary(20), SMALL).checkpoint
    longer = first.vocabulary.extended(["new-1", "new-2"])
    second = train(
        table([[20, 21], [21, 20]]),
        longer,
        SMALL.changed(epochs=1, n_sample=0, batch_size=2),
        start=first,
    ).checkpoint
    vectors = second.weights["item_vectors"]
    assert vectors.shape == (22, 16)
    assert torch.equal(vectors[:20], first.weights["item_vectors"])
    assert vectors[20:].any(dim=1).all()
    assert second.optimiser["accumulator.item_vectors"][20:].any(dim=1).all()
    accumulator = "accumulator.item_vectors"
    assert torch.equal(second.optimiser[accumulator][:20], first.optimiser[accumulator])


def test_accumulators_can_be_reset_at_a_warm_start() -> None:
    """Only the items met since then have a history again."""
    first = train(random_sessions(40, 20), vocabulary(20), SMALL).checkpoint
    config = SMALL.changed(epochs=1, n_sample=0, batch_size=2)
    second = train(
        table([[3, 4], [5, 6]]), first.vocabulary, config, start=first, reset_accumulators=True
    ).checkpoint
    touched = second.optimiser["accumulator.item_vectors"].any(dim=1)
    assert touched.nonzero().flatten().tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("changes", [{"units": 8}, {"cell": "rnn"}, {"layers": 2}])
def test_a_warm_start_refuses_another_network(changes: dict[str, object]) -> None:
    first = train(random_sessions(20, 10), vocabulary(10), SMALL).checkpoint
    with pytest.raises(ConfigurationError, match="another shape"):
        train(random_sessions(20, 10), vocabulary(10), SMALL.changed(**changes), start=first)


def test_a_warm_start_refuses_items_in_another_order() -> None:
    first = train(random_sessions(20, 10), vocabulary(10), SMALL).checkpoint
    shuffled = ItemVocabulary(reversed(first.vocabulary.ids))
    with pytest.raises(ConfigurationError, match="in their order"):
        train(random_sessions(20, 10), shuffled, SMALL, start=first)


def test_a_loss_that_is_no_number_ends_the_training_with_advice() -> None:
    start = train(random_sessions(20, 10), vocabulary(10), SMALL).checkpoint
    start.weights["item_vectors"][3, 0] = float("nan")
    with pytest.raises(TrainingDivergedError, match="lower learning_rate"):
        train(random_sessions(20, 10), vocabulary(10), SMALL, start=start)


def test_nothing_to_learn_from_is_said_at_once() -> None:
    with pytest.raises(ConfigurationError, match="no session of two clicks"):
        train(table([[1], [2]]), vocabulary(5), SMALL)


def test_progress_ends_at_everything_done() -> None:
    told: list[TrainingProgress] = []
    result = train(random_sessions(40, 20), vocabulary(20), SMALL, progress=told.append)
    assert [p.epoch for p in told if p.epoch_finished] == [1, 2, 3]
    assert told[-1].events_done == told[-1].events_total == result.events
    assert result.checkpoint.record.epoch_losses[-1] == told[-1].loss


def test_a_stop_ends_it_after_the_step_under_way() -> None:
    result = train(random_sessions(40, 20), vocabulary(20), SMALL, should_stop=lambda: True)
    assert result.stopped
    assert result.events == SMALL.batch_size


def test_torch_is_left_as_it_was_found() -> None:
    before = (torch.get_num_threads(), torch.get_float32_matmul_precision())
    train(random_sessions(20, 10), vocabulary(10), SMALL.changed(precision="bfloat16"), threads=1)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


def test_unknown_items_and_single_clicks_are_left_out() -> None:
    noisy = table([[0, -1, 1], [2], [-1], [1, 2]])
    clean = table([[0, 1], [1, 2]])
    one = train(noisy, vocabulary(3), SMALL).checkpoint
    other = train(clean, vocabulary(3), SMALL).checkpoint
    assert same_weights(one, other)


def test_training_beats_the_untrained_network() -> None:
    sessions = table([[i % 7, (i + 1) % 7, (i + 2) % 7, (i + 3) % 7] for i in range(200)])
    before = train(sessions, vocabulary(40), SMALL.changed(epochs=1, learning_rate=1e-9))
    after = train(sessions, vocabulary(40), SMALL)
    untrained = evaluate_checkpoint(before.checkpoint, sessions)
    trained = evaluate_checkpoint(after.checkpoint, sessions)
    assert trained.mrr_20 > 2 * untrained.mrr_20


COSINE = CosineGRUConfig(
    units=16, history_items=4, batch_clicks=40, n_sample=16, learning_rate=0.02, epochs=4
)


@pytest.mark.parametrize("config", [SMALL.changed(epochs=4), COSINE])
def test_the_best_epoch_is_kept_and_found_again_after_a_kill(
    tmp_path: Path, config: ModelConfig
) -> None:
    """Random sessions: what is learned by heart makes the held-out ones worse, so an early epoch is best."""
    sessions, held_out = random_sessions(80, 30), random_sessions(60, 30, seed=1)
    whole = train(sessions, vocabulary(30), config, validation=held_out).checkpoint
    record = whole.record
    assert len(record.epoch_recalls) == record.epochs_done == 4
    best = evaluate_checkpoint(whole, held_out)
    assert (best.recall_20, best.mrr_20) == (
        record.epoch_recalls[record.best_epoch - 1],
        record.epoch_mrrs[record.best_epoch - 1],
    )
    assert record.best_epoch < 4, "the case is of no use if the last epoch is the best"

    stops = iter([False] * 10_000)

    class KilledError(Exception):
        pass

    def kill() -> bool:
        if list(tmp_path.glob("epoch-3")):
            raise KilledError
        return next(stops)

    with pytest.raises(KilledError):
        train(
            sessions, vocabulary(30), config, validation=held_out, resume_directory=tmp_path,
            should_stop=kill,
        )  # fmt: skip
    resumed = train(
        sessions, vocabulary(30), config, validation=held_out, resume_directory=tmp_path
    ).checkpoint
    assert same_weights(resumed, whole)
    assert resumed.record.epoch_recalls == record.epoch_recalls


def test_patience_ends_a_training_that_gets_no_better() -> None:
    sessions, held_out = random_sessions(80, 30), random_sessions(60, 30, seed=1)
    record = train(
        sessions, vocabulary(30), SMALL.changed(epochs=30), validation=held_out, patience=2
    ).checkpoint.record
    assert record.epochs_done < 30
    assert record.epochs_since_best == 3


def test_the_cosine_gru_learns_a_cycle_and_repeats_itself_bit_for_bit() -> None:
    """Of a dozen items: a session that holds all items leaves none to be told from the next one."""
    sessions = table([[(start + i) % 12 for i in range(4)] for start in range(12)] * 8)
    one, other = (train(sessions, vocabulary(12), COSINE.changed(epochs=12)) for _ in range(2))
    assert same_weights(one.checkpoint, other.checkpoint)
    model = one.checkpoint.model()
    states = model.start_states(12)
    for step in range(3):
        clicked = (torch.arange(12) + step) % 12
        states = model.step(clicked, *states)
        assert model.scores(*states).argmax(dim=1).tolist() == ((clicked + 1) % 12).tolist()


def test_the_cosine_gru_starts_warm_from_its_own_kind_only() -> None:
    first = train(random_sessions(40, 20), vocabulary(20), COSINE).checkpoint
    longer = first.vocabulary.extended(["new-1"])
    second = train(table([[20, 3], [3, 20]]), longer, COSINE.changed(epochs=1), start=first)
    assert second.checkpoint.weights["item_vectors"].shape == (21, 16)
    with pytest.raises(ConfigurationError, match="another shape"):
        train(random_sessions(20, 20), vocabulary(20), SMALL, start=first)


@pytest.mark.parametrize("config", [SMALL, COSINE])
def test_item_vectors_start_the_table_at_the_size_of_random_ones(config: ModelConfig) -> None:
    """With steps of next to nothing the table stays where it began."""
    given = np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32) * 100
    given[3] = 0
    still = config.changed(epochs=1, learning_rate=1e-9)
    sessions = random_sessions(40, 20)
    plain = train(sessions, vocabulary(20), still).checkpoint.weights["item_vectors"]
    started = train(sessions, vocabulary(20), still, item_vectors=given)
    table_ = started.checkpoint.weights["item_vectors"]
    assert torch.allclose(table_[3], plain[3], atol=1e-5), "nothing is known of it"
    cosines = torch.nn.functional.cosine_similarity(table_, torch.from_numpy(given))
    assert cosines[torch.arange(20) != 3].min() > 0.9999
    assert table_.square().mean().item() == pytest.approx(plain.square().mean().item(), rel=0.1)
    with pytest.raises(ConfigurationError, match="as many numbers"):
        train(sessions, vocabulary(20), still, item_vectors=given[:, :8])
