"""How the stream statistics count: every number that decides what the same clicks are counted as.

`GRU4REC.md` calls it A: pairs of clicks of one session, forward and a little backward, decaying at two
half-lives, with the popularity of follow-up clicks as the prior.
"""

from typing import Annotated, Final

import msgspec

MINUTE_MS: Final = 60_000

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Count = Annotated[int, msgspec.Meta(ge=1)]


class StatisticsRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """Equal recipes and equal clicks in equal versions give equal statistics, bit for bit."""

    half_life_minutes: _Positive = 60.0
    """Of the popularity that plain lists are made from; all clicks."""
    half_lives_minutes: tuple[_Positive, ...] = (2.5, 10.0, 60.0)
    """Of further popularities of all clicks."""
    follow_up_half_life_minutes: _Positive = 7.5
    """Of the popularity of follow-up clicks: a session's second click and later."""
    pair_half_lives_minutes: tuple[_Positive, ...] = (20.0, 43_200.0)
    """Of the co-occurrence counts, the shortest first."""
    pair_weights: tuple[_Positive, ...] = (0.5, 0.5)
    """Share of each of them in a score."""
    pair_positions: _Count = 4
    """Two clicks of a session are a pair up to so many positions apart; so many items are scored from."""
    pair_position_decay: _Share = 0.5
    """A pair, or a scored-from item, one position further away weighs so much of the nearer one."""
    pair_backward: _Share = 0.2
    """Weight of a pair read backward; forward is 1."""
    neighbours_max: _Count = 100
    """Co-occurring items kept per item."""
    prior_clicks: _Positive = 5.0
    """So many clicks' worth of popularity are mixed into an item's co-occurrence."""
    items_max: _Count = 1_000_000
    """Items counted at most; the least popular are dropped first."""
    sessions_max: _Count = 200_000
    """Sessions whose last items are remembered, over all partitions."""
    idle_gap_minutes: _Positive = 30.0
    """A longer silence starts a new session."""

    def __post_init__(self) -> None:
        if len(self.pair_weights) != len(self.pair_half_lives_minutes):
            raise ValueError(
                f"statistics.pair_weights has {len(self.pair_weights)} values, "
                f"statistics.pair_half_lives_minutes {len(self.pair_half_lives_minutes)}: give one of each"
            )
        for name, longest in (("half_lives_minutes", 16), ("pair_half_lives_minutes", 8)):
            if len(getattr(self, name)) > longest:
                raise ValueError(f"statistics.{name} may have {longest} values at most")
        for name, most in (
            ("pair_positions", 64),
            ("neighbours_max", 10_000),
            ("items_max", 2**27),
        ):
            if getattr(self, name) > most:
                raise ValueError(f"statistics.{name} may be {most} at most")
        if not self.pair_half_lives_minutes:
            raise ValueError("statistics.pair_half_lives_minutes needs a value")

    @property
    def popularity_half_lives_ms(self) -> tuple[float, ...]:
        """The plain one first, then the further ones."""
        return tuple(m * MINUTE_MS for m in (self.half_life_minutes, *self.half_lives_minutes))

    @property
    def follow_up_half_life_ms(self) -> float:
        return self.follow_up_half_life_minutes * MINUTE_MS

    @property
    def pair_half_lives_ms(self) -> tuple[float, ...]:
        return tuple(minutes * MINUTE_MS for minutes in self.pair_half_lives_minutes)

    @property
    def idle_gap_ms(self) -> float:
        return self.idle_gap_minutes * MINUTE_MS

    @property
    def position_weights(self) -> tuple[float, ...]:
        """Of an item 1, 2, ... positions away."""
        return tuple(self.pair_position_decay**distance for distance in range(self.pair_positions))
