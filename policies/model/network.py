"""Links between sites and agents, and the data that crosses them."""

from policies.model.record import Record


class Link(Record, frozen=True, kw_only=True):
    """What is believed of one directed link. Ends are `site:<name>` or `agent:<id>`; data flows `from_id` → `to_id`.

    `bandwidth_bps` is a lower-quantile estimate. None means never measured. `rtt_us` is the round trip.

    Where enough was measured it is a forecast: over the next `forecast_us` the mean rate is at least `bandwidth_bps`
    nine times in ten, and at most `bandwidth_high_bps` as often; `forecast_by` is the model that counts most in it.
    Without a forecast it is `bandwidth_measured_bps`, the lower quartile of the newest samples. `bandwidth_over` has
    such lower bounds over other horizons, (horizon in µs, bit/s) ascending, as far as transfers that pending work may
    need ask for them.

    Of a link that fell, and that nothing has crossed for half a minute, `bandwidth_bps` and these go back towards what
    it gave on average, and may then be above `bandwidth_high_bps` (docs/decisions/0010-silent-links.md).
    """

    from_id: str
    to_id: str
    rtt_us: int | None = None
    jitter_us: int | None = None
    loss_ppm: int | None = None
    bandwidth_bps: int | None = None
    confidence_ppm: int = 0
    age_us: int = 0
    bandwidth_high_bps: int | None = None
    bandwidth_measured_bps: int | None = None
    forecast_us: int | None = None
    forecast_by: str = ""
    bandwidth_over: tuple[tuple[int, int], ...] = ()
    is_disputed: bool = False  # its two ends tell different rates of the same transfers; the lower one counts


class Shard(Record, frozen=True, kw_only=True):
    """Immutable bytes named by their SHA-256 (hex). `replicas` are agent ids, sorted; empty `sites` means anywhere.

    `replica_sites` is parallel to `replicas`; it may be left empty when every replica's agent is a node of the
    snapshot. `in_store`: the master's own store has the bytes too, behind a link nobody measured.
    """

    shard_id: str
    size_bytes: int
    name: str = ""
    replicas: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()  # residency: the sites it may live in
    replicas_wanted: int = 1  # the master keeps at least this many; the policy says where
    replica_sites: tuple[str, ...] = ()
    in_store: bool = False
