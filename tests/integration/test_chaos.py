"""The short form of every row of `make chaos`: nothing is lost, doubled or answered differently."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos.lab import Lab
from tests.chaos.row import Row, Scale
from tests.chaos.rows import all_rows


@pytest.fixture(scope="module")
def lab(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("chaos")
    with Lab(directory, bootstrap_servers=kafka.bootstrap_servers) as lab:
        yield lab


@pytest.mark.parametrize("row", all_rows(), ids=lambda row: row.name)
def test_no_fault_of_the_row_loses_or_doubles_anything(row: Row, lab: Lab) -> None:
    findings = list(row.run(lab, Scale(short=True)))
    assert findings
    assert all(finding.runs for finding in findings)
    assert [finding for finding in findings if not finding.is_good] == []
