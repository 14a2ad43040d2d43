"""The workers of a live agent, put together from its configuration."""

from pathlib import Path

from agents.config import AgentConfig
from agents.data.client import Client
from agents.data.fetcher import Fetcher
from agents.data.rate import Uplink
from agents.data.server import DataServer
from agents.executors.process import ProcessExecutor
from agents.measure import Gauge
from agents.ports import Post, Workers
from agents.probes.prober import Prober
from agents.store import ShardStore
from federation.errors import ConfigError


def build(config: AgentConfig, folder: Path, post: Post, *, adopts_orphans: bool = False) -> Workers:
    """`folder` is the agent's own and exists. `adopts_orphans` as of `ProcessExecutor`. Raises `ConfigError`."""
    token = read_token(config.token_file)
    uplink = Uplink(config.site, config.uplink_bps)
    client = Client(uplink=uplink, agent_id=config.agent_id, token=token, ca_file=config.tls_ca_file)
    store = ShardStore(
        folder / "shards", post, bytes_max=config.shards_bytes_max, reserved_bytes=config.disk_reserved_bytes
    )
    executor = ProcessExecutor(
        folder / "tasks", store, post, agent_id=config.agent_id, site=config.site, log_bytes_max=config.log_bytes_max,
        logs_kept_bytes=config.logs_kept_bytes, cpu_share_milli=config.cpu_share_milli,
        adopts_orphans=adopts_orphans,
    )  # fmt: skip
    return Workers(
        executor=executor,
        store=store,
        fetcher=Fetcher(store, client, post, agent_id=config.agent_id, fetches_max=config.fetches_max),
        prober=Prober(client, post, agent_id=config.agent_id),
        gauge=Gauge(config, folder, post, executor.use),
        data_server=DataServer(
            host=config.data_host, port=config.data_port, url=config.data_url, token=token, uplink=uplink,
            verified=store.verified, read_log=executor.read_log, agent_id=config.agent_id, post=post,
        ),
    )  # fmt: skip


def read_token(token_file: str) -> str:
    """The first line of the file; "" for no file. Raises `ConfigError`."""
    if not token_file:
        return ""
    path = Path(token_file).expanduser()
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"token_file {path} cannot be read: {error}") from None
    if not token or len(token.split()) != 1:
        raise ConfigError(f"token_file {path} must hold one word: the bearer token")
    return token
