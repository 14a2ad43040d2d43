"""The tables of docs/market.md that say which test holds which rule name tests that are there."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_rule_names_tests_that_exist() -> None:
    page = (HERE.parent / "docs" / "market.md").read_text(encoding="utf-8").partition("## Which test holds")[2]
    rows = [line for line in page.splitlines() if line.startswith("|") and "---" not in line and "held by" not in line]
    assert len(rows) > 30
    market = "".join(path.read_text(encoding="utf-8") for path in HERE.glob("test_market_*.py"))
    for row in rows:
        names = re.findall(r"`((?:test_\w+\.py::)?[Tt]est\w+)`", row.rpartition("|")[0].rpartition("|")[2])
        assert names, row
        for name in names:
            file, _, test = name.rpartition("::")
            text = (HERE / file).read_text(encoding="utf-8") if file else market
            assert f"def {test}(" in text or f"\n{test} =" in text or f"class {test}" in text, name
