"""Every kind of network we train, by its configuration: the one place that names them all."""

from models.config import CosineGRUConfig, GRU4RecConfig, ModelConfig
from models.cosine_gru import CosineGRU
from models.cosine_gru_learner import CosineGRULearner
from models.gru4rec import GRU4Rec
from models.gru4rec_learner import GRU4RecLearner
from models.network import Learner, SessionModel
from models.together import ALONE, Together
from stream_app.evaluation.sessions import SessionTable


def network(config: ModelConfig, n_items: int) -> SessionModel:
    """A network of zeros."""
    if isinstance(config, CosineGRUConfig):
        return CosineGRU(config, n_items)
    assert isinstance(config, GRU4RecConfig)
    return GRU4Rec(config, n_items)


def learner(model: SessionModel, sessions: SessionTable, together: Together = ALONE) -> Learner:
    """What teaches the network; sessions: of two known clicks or more, of all processes."""
    if isinstance(model, CosineGRU):
        return CosineGRULearner(model, sessions, together)
    assert isinstance(model, GRU4Rec)
    return GRU4RecLearner(model, sessions, together)
