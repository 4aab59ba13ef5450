"""A real Chromium in front of a small real stack; skipped, and said so, where there is no browser."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.browsing import Visitor, chromium_path, launch, visiting
from tests.browser.stack import Stack, running_stack
from tests.integration.conftest import TestKafka, kafka

__all__ = ["kafka"]

VisitorFactory = Callable[..., Visitor]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if chromium_path() is None:
        pytest.skip("needs Chromium: apt-get install --no-install-recommends chromium")
    with sync_playwright() as playwright:
        running = launch(playwright)
        yield running
        running.close()


@pytest.fixture(scope="session")
def stack(
    browser: Browser, kafka: TestKafka, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """One for all tests: each visitor has a session of its own."""
    with running_stack(kafka.settings, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture
def visit(browser: Browser, stack: Stack) -> Iterator[VisitorFactory]:
    """Makes visitors.  Whatever their pages complained of fails the test, unless `may_complain`."""
    with ExitStack() as contexts:
        quiet: list[Visitor] = []

        def make(
            *, may_complain: bool = False, origin: str = stack.origin, **options: Any
        ) -> Visitor:
            visitor = contexts.enter_context(visiting(browser, origin, **options))
            if not may_complain:
                quiet.append(visitor)
            return visitor

        yield make
        complaints = [complaint for visitor in quiet for complaint in visitor.complaints]
    assert not complaints
