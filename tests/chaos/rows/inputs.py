"""Row 7: wrong clocks, late and doubled and disordered clicks, poison, a hot session, a bot."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from stream_app.settings import serving_rules
from tests.chaos.inputs import (
    DAY_MS,
    HOUR_MS,
    POISONS,
    TEN_YEARS_MS,
    Latencies,
    Poisoned,
    Records,
    accounting_problems,
    in_words,
    letter_problems,
    mixed,
    note_of,
    one_session,
    wild_times,
)
from tests.chaos.lab import Lab, Stream
from tests.chaos.row import Finding, Row, Scale
from tests.chaos.traffic import START_MS, KeyedClick

RATE: Final = 150.0
"""Clicks per second of ordinary traffic."""
HOT_RATE: Final = 500.0
BOT: Final = "session-of-a-bot"
HOT: Final = "session-that-is-hot"
RECORD_BYTES_MAX: Final = 1_000
"""A session of these small models takes about 400 bytes."""


def run(lab: Lab, scale: Scale) -> Iterator[Finding]:
    yield own_clock_jumps(lab, scale)
    yield event_times_jump(lab, scale)
    yield poisoned_stream(lab, scale)
    yield one_session_fills_a_partition(lab, scale)


def own_clock_jumps(lab: Lab, scale: Scale) -> Finding:
    """The worker's own clock is set an hour and ten years forwards and back, under load."""
    jumps = [sign * ms / 1000 for ms in (HOUR_MS, TEN_YEARS_MS) for sign in (1, -1)]
    seconds = scale.times(6, 1)
    recovery = []
    with lab.stream() as stream:
        clock = stream.directory / "clock"
        worker = stream.start_worker(0, "--clock", str(clock))
        worker.wait_until_serving()
        with stream.load(RATE):
            for error in (*jumps, 0.0):
                clock.write_text(str(error))
                began_ms = time.time() * 1000
                time.sleep(seconds)
                recovery.append(stream.wait_for_answer_after(began_ms + 100))
        died = [] if worker.is_alive else [f"the worker ended: {worker.log[-300:]}"]
        finding = stream.verdict("its own clock jumps 1 h, 10 years", len(recovery))
    finding = with_problems(finding, died)
    return replace(finding, recovery_seconds=tuple(recovery))


def event_times_jump(lab: Lab, scale: Scale) -> Finding:
    """Event times an hour, a day and ten years off, a tenth of the clicks twice, all in disorder; one kill."""
    count = scale.times(3_000, 300)
    recovery = []
    with lab.stream() as stream:
        worker = stream.start_worker()
        worker.wait_until_serving()
        jumps = (HOUR_MS, -HOUR_MS, DAY_MS - HOUR_MS, -DAY_MS, TEN_YEARS_MS, -TEN_YEARS_MS)
        for number, jump_ms in enumerate(jumps):
            now_ms = time.time_ns() // 1_000_000 - HOUR_MS
            clicks = wild_times(
                f"{scale.seed}-{number}", sessions=40, now_ms=now_ms, jump_ms=jump_ms
            )
            stream.produce(clicks=islice(clicks, count))
            if number == len(jumps) // 2:
                worker.kill()
                ended_ms = worker.ended_ms
                worker = stream.start_worker()
                stream.produce(20)  # years late by now
                recovery.append(stream.wait_for_answer_after(ended_ms))
        stream.wait_until_settled()
        records = Records.of(stream, serving_rules(stream.settings))
        finding = stream.verdict(
            "event times jump, late, doubled, disordered",
            len(jumps),
            recovery_seconds=recovery,
            note=f"fates of the clicks: {in_order(records.fates)}",
        )
    wanted = ("ignored_duplicate", "dead_lettered")
    absent = [f"the stream had no {fate}" for fate in wanted if not records.fates[fate]]
    return with_problems(finding, absent)


def poisoned_stream(lab: Lab, scale: Scale) -> Finding:
    """Each kind of bad click at a tenth of all, one kind at a time and then all, beside the clean stream."""
    kinds: list[Sequence[str]] = [[kind] for kind in POISONS]
    mixtures = [*kinds, list(POISONS)]
    seconds = scale.times(10, 1)
    if scale.short:
        mixtures = [list(POISONS), list(POISONS)]
    latencies = Latencies()
    with lab.stream() as stream:
        worker = stream.start_worker()
        worker.wait_until_serving()
        poisoned = Poisoned(stream.clicks, seed=str(scale.seed))
        warm_up(stream)
        for mixture in mixtures:
            bad = 0.1 * len(mixture)
            # The good clicks come at the same rate in both; the bad ones come on top.
            phase(stream, latencies, "clean", stream.clicks, RATE, seconds)
            name = mixture[0] if len(mixture) == 1 else "all kinds"
            clicks = poisoned.clicks(mixture)
            phase(stream, latencies, name, clicks, RATE / (1 - bad), seconds)
        stream.wait_until_settled()
        records = Records.of(stream, serving_rules(stream.settings))
        problems = accounting_problems(records, worker) + letter_problems(records, poisoned.sent)
        stream.answers.wait_until_read()
        p99 = latencies.p99_by_phase(stream, records.clicks, lambda _: True)
        finding = stream.verdict(
            "poisoned stream",
            len(poisoned.sent),
            note=f"p99 of good clicks at {RATE:.0f}/s: {in_words(p99)}",
        )
    return with_problems(finding, problems)


def one_session_fills_a_partition(lab: Lab, scale: Scale) -> Finding:
    """One session at 500 clicks/s beside ordinary traffic: of a visitor by its event times, then of a bot."""
    seconds, rounds = scale.times(10, 2), scale.times(5, 1)
    latencies = Latencies()
    with lab.stream() as stream:
        worker = stream.start_worker()
        worker.wait_until_serving()
        warm_up(stream)
        seed = str(scale.seed)
        # A second and more between two clicks by the visitor's clock, so no limit stops it.
        hot = one_session(seed, HOT, now_ms=START_MS, per_second=1.5)
        bot = one_session(seed, BOT, now_ms=START_MS, per_second=HOT_RATE)
        for _ in range(rounds):
            for name, one in (("alone", None), ("hot", hot), ("alone", None), ("bot", bot)):
                clicks, rate = stream.clicks, RATE
                if one is not None:
                    clicks = mixed((RATE, stream.clicks), (HOT_RATE, one), seed=seed)
                    rate += HOT_RATE
                phase(stream, latencies, name, clicks, rate, seconds)
        stream.wait_until_settled()
        records = Records.of(stream, serving_rules(stream.settings))
        problems = accounting_problems(records, worker)
        if not records.fates["ignored_rate_limited"]:
            problems.append("no click was ignored as rate limited")
        stream.answers.wait_until_read()
        keys = {HOT.encode(), BOT.encode()}
        p99 = latencies.p99_by_phase(stream, records.clicks, lambda r: r.key not in keys)
        finding = stream.verdict(
            "a hot session and a bot at 500/s",
            2 * rounds,
            note=f"p99 of the others: {in_words(p99)}; fates: {in_order(records.fates)}",
        )
        largest = max(len(record.value or b"") for record in stream.evidence().changelog)
    if largest > RECORD_BYTES_MAX:
        problems.append(f"a session record has {largest} bytes")
    return with_problems(finding, problems)


def warm_up(stream: Stream) -> None:
    """What happens once only (allocations, first fetches) belongs to no phase."""
    stream.produce(200)
    stream.wait_until_settled()


def phase(
    stream: Stream,
    latencies: Latencies,
    name: str,
    clicks: Iterator[KeyedClick],
    rate: float,
    seconds: float,
) -> None:
    began_ms = time.time() * 1000
    with stream.load(rate, clicks):
        time.sleep(seconds)
    latencies.phases.append((name, began_ms, time.time() * 1000))
    stream.wait_until_settled()


def with_problems(finding: Finding, problems: Sequence[str]) -> Finding:
    """The finding with further failures, and the first of them in words."""
    return replace(
        finding,
        failures=finding.failures + len(problems),
        note=note_of(problems, *filter(None, [finding.note])),
    )


def in_order(fates: dict[str, int]) -> str:
    return ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items()))


ROW = Row("inputs", "clocks, late and doubled clicks, poison, a hot session, a bot", run)
