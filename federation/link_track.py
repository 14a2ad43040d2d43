"""What is known of one directed link: its newest samples, what either end says, and the estimate that they make.

What a policy plans with is a forecast, `policies.forecast`: the lower decile of the mean rate over the next half
minute, and over such other horizons as transfers take that pending work may need. Until nine forecasts of a link have
been judged it is the lower quartile of what was measured, which is told beside the forecast ever after.
"""

from collections import deque
from collections.abc import Iterable

from federation.link_fall import PPM, STEP_MILLI, LinkFall, halved
from federation.wire import LinkSample
from policies.forecast.forecaster import Forecast, Forecaster
from policies.forecast.horizons import HORIZONS_US, USUAL_US, horizon_of
from policies.kernels.forecast.outlook import FIRST
from policies.model import Link

# Below this a transfer is all start-up: slow start of ten segments reaches 64 KiB in three round trips.
BANDWIDTH_BYTES_MIN = 64 * 1024
# A transfer that has run for so long is past its start-up however little came.
BANDWIDTH_US_MIN = 1_000_000
RATE_BPS_MIN = 1_000  # a way that brings nothing is told as this: times stay finite
# An agent's own link is told apart from its site's when they differ by more than this, on at least so many samples.
DIFFERS_MILLI = 300
DIFFERS_SAMPLES_MIN = 3
# A forecaster takes 3 KiB. Sites' links have one at once, agents' own when so many samples say that they are used.
FORECAST_SAMPLES_MIN = 8
FALLS_MAX = 16  # steps downwards remembered: ways that fall together share a bottleneck (`topology`)
CLAIM_BYTES_MIN = 1_000_000  # of one report of a transfer; senders tell of no less (`agents.probes.delivery`)
CLAIMS_MIN, CLAIMS_MAX = 3, 8  # words of each end that are compared, by their medians
CLAIMS_FAR = 2  # times: noise, buffers and the parts of a transfer that a report covers explain less
DISPUTED_PART = 4  # of its confidence is left to a disputed link
BOUND_PART = 4  # and to one of which nothing but lower bounds is known
ONE_SIDED_MILLI = 750  # and this to what only the receiver has told of
STEP_US_MIN = 2_000  # of a round trip: below this a change is a queue that came and went

Measured = tuple[int | None, int | None]  # bandwidth_bps, rtt_us


class LinkTrack:
    """The newest samples of one directed link."""

    __slots__ = (
        "bandwidth",
        "bound_bps",
        "fall",
        "falls",
        "forecaster",
        "from_id",
        "has_fallen",
        "jitter",
        "learned_us",
        "loss",
        "passive_us",
        "received",
        "rtt",
        "seen_us",
        "sent",
        "step_us",
        "to_id",
    )

    def __init__(self, from_id: str, to_id: str, samples_max: int) -> None:
        self.from_id = from_id
        self.to_id = to_id
        self.bandwidth: deque[int] = deque(maxlen=samples_max)
        self.bound_bps: int | None = None  # the way gives at least this: all there is to say before a true measurement
        self.forecaster: Forecaster | None = None  # None: too little was measured to need one
        self.sent: deque[int] = deque(maxlen=CLAIMS_MAX)  # rates of large transfers, by the sender's word
        self.received: deque[int] = deque(maxlen=CLAIMS_MAX)  # and by the receiver's
        self.fall = LinkFall()
        self.learned_us = -(2**62)  # when its bandwidth was last measured
        self.falls: deque[int] = deque(maxlen=FALLS_MAX)  # when it fell by a step
        self.step_us = -(2**62)  # when it was seen to have become another
        self.has_fallen = False  # by a step, and what is kept is all from after it
        self.rtt: deque[int] = deque(maxlen=samples_max)
        self.jitter: deque[int] = deque(maxlen=samples_max)
        self.loss: deque[tuple[int, int]] = deque(maxlen=samples_max)  # of so many bytes
        self.seen_us = 0
        self.passive_us = -(2**62)  # when real bytes last measured its bandwidth

    def claim(self, sample: LinkSample, *, by_sender: bool) -> None:
        """What one end says of a large transfer, whatever it shared the way with: both saw the same bytes."""
        if sample.method == "transfer" and sample.bandwidth_bps is not None and sample.bytes >= CLAIM_BYTES_MIN:
            (self.sent if by_sender else self.received).append(max(RATE_BPS_MIN, sample.bandwidth_bps))

    def disputed_bps(self) -> int | None:
        """The lower of two words, where the ends differ beyond what buffers and noise explain; None while they agree,
        or while only one has spoken."""
        sent, received = quantile(self.sent, 2), quantile(self.received, 2)
        if sent is None or received is None or min(len(self.sent), len(self.received)) < CLAIMS_MIN:
            return None
        return min(sent, received) if max(sent, received) > CLAIMS_FAR * min(sent, received) else None

    def add(self, sample: LinkSample, now_us: int) -> None:
        self.seen_us = now_us
        if sample.bandwidth_bps is not None and _tells_rate(sample):
            bps = max(RATE_BPS_MIN, sample.bandwidth_bps * sample.shared_milli // 1000)
            self.learn_rate(bps, now_us, is_lower_bound=sample.is_lower_bound)
            if sample.method == "transfer":
                self.passive_us = now_us
        for kept, value in ((self.rtt, sample.rtt_us), (self.jitter, sample.jitter_us)):
            if value is not None:
                kept.append(value)
        if sample.loss_ppm is not None:
            self.loss.append((min(PPM, sample.loss_ppm), max(1, sample.bytes)))
        if _is_step(self.rtt, STEP_US_MIN):
            self.rtt = deque((self.rtt[-2], self.rtt[-1]), maxlen=self.rtt.maxlen)

    def learn_rate(self, bps: int, now_us: int, *, is_lower_bound: bool = False) -> None:
        """A lower bound says nothing below what is believed already: our own other transfers took the rest."""
        measured = quantile(self.bandwidth, 4)
        self.fall.hear(now_us)
        if not is_lower_bound or (measured is not None and bps > measured):
            self.fall.learn(bps, now_us, is_lower_bound=is_lower_bound)
            self.bandwidth.append(bps)
            self.bound_bps = None
            self.learned_us = now_us
            if _is_step(self.bandwidth, 0):
                self.step_us = now_us
                self.has_fallen = self.bandwidth[-1] < self.bandwidth[0]
                if self.has_fallen:
                    self.falls.append(now_us)
                self.bandwidth = deque((self.bandwidth[-2], self.bandwidth[-1]), maxlen=self.bandwidth.maxlen)
            elif len(self.bandwidth) == self.bandwidth.maxlen:
                self.has_fallen = False
            if self.forecaster is None and (self.is_of_sites() or len(self.bandwidth) >= FORECAST_SAMPLES_MIN):
                self.forecaster = Forecaster()
            if self.forecaster is not None:
                self.forecaster.update(bps, now_us)
        elif measured is None:
            self.bound_bps = max(bps, self.bound_bps or 0)

    def loss_ppm(self) -> int | None:
        """Of all bytes of the window: a probe of sixty packets says less than a transfer."""
        n_bytes = sum(n_bytes for _, n_bytes in self.loss)
        return sum(ppm * n_bytes for ppm, n_bytes in self.loss) // n_bytes if n_bytes else None

    def is_of_sites(self) -> bool:
        return self.from_id.startswith("site:") and self.to_id.startswith("site:")

    def measured_bps(self) -> int | None:
        """The lower quartile of what was measured, or else the best lower bound."""
        return quantile(self.bandwidth, 4) if self.bandwidth else self.bound_bps

    def measured(self) -> Measured:
        return self.measured_bps(), quantile(self.rtt, 2)

    def forecast(self, horizon_us: int = USUAL_US) -> Forecast | None:
        """None until enough forecasts of this link were judged to believe one."""
        forecast = self.forecaster.forecast_over(horizon_us) if self.forecaster is not None else None
        return forecast if forecast is not None and forecast.outcomes >= FIRST else None

    def bandwidth_bps(self, now_us: int) -> int | None:
        """What to plan with: the forecast's lower bound where there is one, else what was measured."""
        forecast = self.forecast()
        bps = self.measured_bps() if forecast is None else self._at_most(forecast.low_bps)
        return self.fall.returned(bps, now_us) if bps else bps

    def bandwidth_over(self, horizons_us: Iterable[int], now_us: int) -> tuple[tuple[int, int], ...]:
        """The same over other horizons, as far as they are forecast."""
        if self.forecast() is None:
            return ()  # The horizon that all links learn first.
        found = ((horizon_us, self.forecast(horizon_us)) for horizon_us in horizons_us)
        low = ((horizon_us, self._at_most(each.low_bps)) for horizon_us, each in found if each is not None)
        return tuple((horizon_us, self.fall.returned(bps, now_us)) for horizon_us, bps in low)

    def transfer_bps(self, n_bytes: int, now_us: int) -> int | None:
        """What to plan so many bytes with: over the horizon that they take."""
        bps = self.bandwidth_bps(now_us)
        horizon_us = horizon_of(n_bytes * 8_000_000 // bps) if bps else USUAL_US
        return dict(self.bandwidth_over((horizon_us,), now_us)).get(horizon_us, bps) if horizon_us != USUAL_US else bps

    def _at_most(self, low_bps: int) -> int:
        """A link that has just fallen gives no more than since then, whatever its past makes of it."""
        return min(low_bps, self.measured_bps() or 0) if self.has_fallen else low_bps

    def estimate(self, now_us: int, half_life_us: int, asked_bytes: tuple[int, int] | None = None) -> Link:
        """Bandwidth as forecast and as measured, round trip and jitter the median, loss the mean of the bytes.
        `asked_bytes` are the least and the most that transfers of pending work would take over it."""
        forecast, measured_bps = self.forecast(), self.measured_bps()
        age_us = max(0, now_us - self.seen_us)
        n_samples = max(len(self.bandwidth), len(self.rtt))
        # One sample is worth half, four are worth 94 %; all of it halves with each half-life of silence.
        certainty_ppm = PPM - (PPM >> min(20, n_samples))
        faded_ppm = halved(certainty_ppm, age_us, half_life_us)
        disputed_bps, planned_bps = self.disputed_bps(), self.bandwidth_bps(now_us)
        over = self.bandwidth_over(_between(asked_bytes, planned_bps), now_us) if asked_bytes and planned_bps else ()
        if disputed_bps is not None:
            planned_bps, over = min(disputed_bps, planned_bps or disputed_bps), ()
            faded_ppm //= DISPUTED_PART
        elif not self.bandwidth and self.bound_bps is not None:
            faded_ppm //= BOUND_PART
        elif not (self.sent and self.received) and self.received:
            faded_ppm = faded_ppm * ONE_SIDED_MILLI // 1000
        return Link(
            from_id=self.from_id,
            to_id=self.to_id,
            is_disputed=disputed_bps is not None,
            rtt_us=quantile(self.rtt, 2),
            jitter_us=quantile(self.jitter, 2),
            loss_ppm=self.loss_ppm(),
            bandwidth_bps=planned_bps,
            bandwidth_high_bps=forecast.high_bps if forecast is not None else None,
            bandwidth_measured_bps=measured_bps,
            forecast_us=forecast.horizon_us if forecast is not None else None,
            forecast_by=forecast.model if forecast is not None else "",
            bandwidth_over=over,
            confidence_ppm=faded_ppm,
            age_us=age_us,
        )


def _between(asked_bytes: tuple[int, int], bps: int) -> tuple[int, ...]:
    """The horizons that such transfers take, but for the usual one."""
    first_us, last_us = (horizon_of(n_bytes * 8_000_000 // bps) for n_bytes in asked_bytes)
    return tuple(each for each in HORIZONS_US if first_us <= each <= last_us and each != USUAL_US)


def _tells_rate(sample: LinkSample) -> bool:
    if sample.bytes >= BANDWIDTH_BYTES_MIN:
        return True
    return sample.method == "transfer" and sample.duration_us >= BANDWIDTH_US_MIN


def quantile(values: deque[int], parts: int) -> int | None:
    """The value below which one in `parts` lies (nearest rank, downwards)."""
    if not values:
        return None
    return sorted(values)[(len(values) - 1) // parts]


def _is_step(values: deque[int], least: int) -> bool:
    """Whether the newest two are outside all that came before by a third: the link is another one now, and its past
    would hide that from every quantile for many probes."""
    if len(values) < 3:
        return False
    *before, first, second = values
    low, high = min(before), max(before)
    if max(first, second) * 1000 < STEP_MILLI * low:
        return low - max(first, second) >= least
    return min(first, second) * STEP_MILLI > 1000 * high and min(first, second) - high >= least


def differs(track: LinkTrack, sites: LinkTrack, measured: Measured) -> bool:
    """Whether an agent's own link is to be told apart. What it measured before its sites' link changed says nothing."""
    if track.learned_us < sites.step_us:
        return False
    for values, own, theirs in zip((track.bandwidth, track.rtt), track.measured(), measured, strict=True):
        if len(values) < DIFFERS_SAMPLES_MIN or own is None or theirs is None:
            continue
        if abs(own - theirs) * 1000 > DIFFERS_MILLI * max(own, theirs):
            return True
    return False
