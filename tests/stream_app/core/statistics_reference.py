"""The stream statistics once more and the slow way: every click and every pair kept, exact powers.

Shares nothing with the code it stands beside but the recipe and the click.
"""

from dataclasses import dataclass, field

from stream_app.core.statistics import SessionClick
from stream_app.core.statistics_recipe import StatisticsRecipe


@dataclass
class Session:
    items: list[str]
    last_ms: int


@dataclass
class Reference:
    recipe: StatisticsRecipe
    clicks: list[tuple[str, int]] = field(default_factory=list)
    follow_ups: list[tuple[str, int]] = field(default_factory=list)
    pairs: list[tuple[str, str, float, int]] = field(default_factory=list)
    sessions: dict[tuple[int, str], Session] = field(default_factory=dict)
    clocks: dict[int, int] = field(default_factory=dict)

    def take(self, click: SessionClick) -> None:
        key = (click.partition, click.session_id)
        if not click.remembered:
            self.sessions.pop(key, None)
        if click.item_id is None:
            return
        self.clicks.append((click.item_id, click.time_ms))
        if not click.remembered:
            return
        clock = max(self.clocks.get(click.partition, 0), click.time_ms)
        self.clocks[click.partition] = clock
        session = self.sessions.get(key)
        if session is None or clock - session.last_ms > self.recipe.idle_gap_minutes * 60_000:
            self.sessions[key] = Session([click.item_id], click.time_ms)
            return
        self.follow_ups.append((click.item_id, click.time_ms))
        for distance, other in enumerate(reversed(session.items[-self.recipe.pair_positions :])):
            weight = self.recipe.pair_position_decay**distance
            self.pairs.append((other, click.item_id, weight, click.time_ms))
            if self.recipe.pair_backward and other != click.item_id:
                back = weight * self.recipe.pair_backward
                self.pairs.append((click.item_id, other, back, click.time_ms))
        session.items.append(click.item_id)
        session.last_ms = max(session.last_ms, click.time_ms)

    @property
    def now_ms(self) -> int:
        return max((time_ms for _, time_ms in self.clicks), default=0)

    def _weight(self, time_ms: int, half_life_minutes: float) -> float:
        return 2.0 ** (-(self.now_ms - time_ms) / (half_life_minutes * 60_000))

    def popularity(self, half_life_minutes: float) -> dict[str, float]:
        """Share of all decayed clicks, by item."""
        return self._shares(self.clicks, half_life_minutes)

    def follow_up_popularity(self) -> dict[str, float]:
        return self._shares(self.follow_ups, self.recipe.follow_up_half_life_minutes)

    def _shares(self, clicks: list[tuple[str, int]], half_life_minutes: float) -> dict[str, float]:
        weights: dict[str, float] = {}
        for item_id, time_ms in clicks:
            weights[item_id] = weights.get(item_id, 0.0) + self._weight(time_ms, half_life_minutes)
        total = sum(weights.values())
        return {item_id: weight / total for item_id, weight in weights.items()}

    def counts(self, h: int) -> dict[tuple[str, str], float]:
        """C_h(i, j)."""
        found: dict[tuple[str, str], float] = {}
        half_life = self.recipe.pair_half_lives_minutes[h]
        for source, target, weight, time_ms in self.pairs:
            key = (source, target)
            found[key] = found.get(key, 0.0) + weight * self._weight(time_ms, half_life)
        return found

    def scores(self, recent: list[str]) -> dict[str, float]:
        """A(j) for every item ever clicked."""
        recipe, prior = self.recipe, self.follow_up_popularity()
        items = {item_id for item_id, _ in self.clicks}
        found = dict.fromkeys(items, 0.0)
        for h, weight in enumerate(recipe.pair_weights):
            counts = self.counts(h)
            for k, last in enumerate(reversed(recent[-recipe.pair_positions :])):
                n = sum(value for (source, _), value in counts.items() if source == last)
                for item_id in items:
                    mixed = counts.get((last, item_id), 0.0)
                    mixed += recipe.prior_clicks * prior.get(item_id, 0.0)
                    found[item_id] += (
                        recipe.pair_position_decay**k * weight * mixed / (n + recipe.prior_clicks)
                    )
        return found
