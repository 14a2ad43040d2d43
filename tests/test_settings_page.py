"""Every setting of master and agent is in the docs, as it stands in the source."""

from pathlib import Path

import pytest

from agents.config import AgentConfig, read_config
from federation.config import LiveConfig, MasterConfig, ReservationConfig, RoleConfig
from federation.http.settings import Credential, HttpConfig
from federation.settings_page import PAGES, ROOT, keys, renewed


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_what_the_source_says(name: str) -> None:
    page = (ROOT / name).read_text()
    assert page == renewed(page, PAGES[name]), "run python -m federation.settings_page"


def test_every_record_and_every_key_is_there() -> None:
    records = (LiveConfig, HttpConfig, Credential, MasterConfig, RoleConfig, ReservationConfig, AgentConfig)
    tables = [table for of_page in PAGES.values() for table in of_page]
    assert [table.record for table in tables] == [record.__name__ for record in records]
    for table, record in zip(tables, records, strict=True):
        found = list(keys(ROOT / table.source, table.record))
        assert [key.name for key in found] == list(record.__struct_fields__)
        assert [key.name for key in found if not key.comment] == [], "say beside it what it is for"


def test_a_key_shows_its_default_in_a_persons_unit_and_its_reason() -> None:
    of_master = {key.name: key for key in keys(ROOT / "federation/config.py", "MasterConfig")}
    assert of_master["suspect_after_us"].default == "`12_000_000` (12 s)"
    assert of_master["suspect_after_us"].comment.startswith("Two pings and a half may be missed")
    live = {key.name: key for key in keys(ROOT / "federation/config.py", "LiveConfig")}
    assert (live["fallback_policy"].default, live["costs"].default) == ('`"fifo"`', "none")
    assert live["check_plans"].comment and live["costs"].comment
    agent = {key.name: key for key in keys(ROOT / "agents/config.py", "AgentConfig")}
    assert agent["agent_id"].default == "must be given"
    assert agent["memory_reserved_bytes"].default == "`268_435_456` (256 MiB)"


def test_the_agents_example_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text((ROOT / "docs/agents.md").read_text().split("```toml\n")[1].split("```")[0])
    assert read_config(path, {}).tls_ca_file == "/etc/offerflow/ca.pem"
