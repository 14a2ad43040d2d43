"""The network map: samples of many agents become one robust estimate a link, with an age and a confidence.

Ends are `site:<name>`, `agent:<id>` or `master` (the broker's and the master's own machine). Every sample feeds the
estimate between the two sites; between two agents a link of its own is kept and told only where it differs, so ten
thousand agents never mean a hundred million entries. Volatile, so that after a restart agents measure again; only what
forecasters and transfers taught is durable.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import msgspec

from federation.agents_book import AgentBook
from federation.facts import ForecastKept, TransferLearned
from federation.link_fall import PPM
from federation.link_track import RATE_BPS_MIN, LinkTrack, Measured, differs, quantile
from federation.wire import LinkSample, NetReport
from policies.coordinates import Coordinates
from policies.forecast.forecaster import Forecaster, ForecasterState
from policies.model import Link

MASTER = "master"
FACTOR_MILLI_MAX = 4_000  # Beyond this it is no error of the estimate but a fault, which passes.
FACTOR_STEP_MILLI = 100  # of the way to the newest ratio: about the last ten transfers count
FACTOR_PRIOR = 2  # transfers as planned count before any was made: one that met a dead spot says little
FACTORS_MAX = 10_000  # pairs of sites
KEPT_MAX = 1_000  # forecasters that outlive a term, 2 to 6 KB each: links between sites, those written last
KEPT_AT_ONCE = 4  # written in one turn, so that the journal grows by a few KB a minute
KEPT_SAMPLES = 32  # more than when it was last written: less has taught it little


def _sorted(links: Iterable[Link]) -> tuple[Link, ...]:
    return tuple(sorted(links, key=lambda link: (link.from_id, link.to_id)))


class _Made:
    """Estimates as they were made at a time, of what was known then."""

    __slots__ = ("at_us", "links", "version")

    def __init__(self) -> None:
        self.links: tuple[Link, ...] = ()
        self.at_us = -(2**62)
        self.version = 0


class NetworkBook:
    # Ages and confidences in a snapshot are refreshed this often: a policy cares for minutes, `why` for seconds.
    REFRESH_US = 1_000_000

    def __init__(self, agents: AgentBook, *, samples_max: int, half_life_us: int, links_max: int) -> None:
        self._agents = agents
        self._samples_max = samples_max
        self._half_life_us = half_life_us
        self._links_max = links_max
        self.tracks: OrderedDict[tuple[str, str], LinkTrack] = OrderedDict()  # least recently measured first
        # The same tracks by what they are asked for: a round looks at few of what thousands of agents have told.
        self.between: dict[tuple[str, str], LinkTrack] = {}  # of sites, and sites and the master
        self._own: dict[str, dict[tuple[str, str], LinkTrack]] = {}  # by agent: its ways from and to other agents
        self._version = 0  # grows with what is learned
        self._all = _Made()
        self._of_sites = _Made()
        self._told = _Made()
        self.n_refused = 0
        # Durable: how many times as long as planned transfers between two sites take, in thousandths, and of how many.
        self.factors: dict[tuple[str, str], tuple[int, int]] = {}
        self.kept: dict[tuple[str, str], ForecasterState] = {}  # durable: by two sites, written longest ago first
        self._asked: dict[str, tuple[int, int]] = {}  # by site, the least and the most that may be fetched from there
        self.coordinates = Coordinates()  # of sites: who is worth probing, nothing else

    def take(self, report: NetReport, now_us: int) -> int:
        """Take in an agent's samples; the number refused, for naming links that do not end at the sender."""
        refused = 0
        for sample in report.samples:
            if not self._take_sample(report.agent_id, sample, now_us):
                refused += 1
        self._version += refused < len(report.samples)
        return refused

    def learn_sum(self, from_site: str, to_site: str, bps: int, now_us: int, *, is_lower_bound: bool) -> None:
        """What all transfers between two sites came to together."""
        track = self._track(f"site:{from_site}", f"site:{to_site}")
        track.seen_us = track.passive_us = now_us
        track.learn_rate(max(RATE_BPS_MIN, bps), now_us, is_lower_bound=is_lower_bound)
        self._version += 1

    def miss(self, from_site: str, to_site: str, now_us: int) -> None:
        """A fetch got nothing. Where nobody has measured the way yet, it is planned with as one that brings nothing,
        until someone does; else the source may be to blame, and only a way that is being tried again is given up."""
        track = self._track(f"site:{from_site}", f"site:{to_site}")
        if track.measured_bps() is None:
            track.seen_us = now_us
            track.learn_rate(RATE_BPS_MIN, now_us, is_lower_bound=True)
            self._version += 1
        elif track.fall.relapse(now_us):
            self._version += 1

    def _take_sample(self, agent_id: str, sample: LinkSample, now_us: int) -> bool:
        if agent_id not in (sample.from_agent, sample.to_agent) or sample.from_agent == sample.to_agent:
            return False
        ends: list[tuple[str, str]] = []
        for end in (sample.from_agent, sample.to_agent):
            if not end:
                ends.append((MASTER, MASTER))
                continue
            entry = self._agents.get(end)
            if entry is None:
                return False
            ends.append((f"agent:{end}", f"site:{entry.site}"))
        (from_agent, from_site), (to_agent, to_site) = ends
        if sample.method == "echo" and sample.rtt_us is not None:
            self.coordinates.learn(from_site, to_site, sample.rtt_us)
        by_sender = sample.method == "transfer" and agent_id == sample.from_agent
        if by_sender:
            self._take_senders(sample, (from_agent, to_agent), (from_site, to_site), now_us)
            return True
        sites, own = self._track(from_site, to_site), self._track(from_agent, to_agent)
        own.claim(sample, by_sender=False)
        own.add(sample, now_us)
        if own.disputed_bps() is None:  # Else its sites' link learns nothing of it.
            sites.add(sample, now_us)
        return True

    def _take_senders(self, sample: LinkSample, own: tuple[str, str], sites: tuple[str, str], now_us: int) -> None:
        """Its rate only to hold the receiver's word against it, which has seen the bytes arrive; what its kernel saw of
        the way there and back besides is nobody else's to tell."""
        known = self.tracks.get(own)
        if known is None:
            return  # Nobody at the other end has told of this way.
        known.claim(sample, by_sender=True)
        of_way = msgspec.structs.replace(sample, bandwidth_bps=None)
        for track in (known, self.tracks.get(sites)):
            if track is not None:
                track.add(of_way, now_us)

    def _track(self, from_id: str, to_id: str) -> LinkTrack:
        key = (from_id, to_id)
        track = self.tracks.get(key)
        if track is None:
            track = self.tracks[key] = LinkTrack(from_id, to_id, self._samples_max)
            kept = self.kept.get((from_id[5:], to_id[5:])) if track.is_of_sites() else None
            if kept is not None:
                track.forecaster = Forecaster()
                track.forecaster.restore(kept)
            self._enter(key, track)
            if len(self.tracks) > self._links_max:
                self._leave(self.tracks.popitem(last=False)[0])
        else:
            self.tracks.move_to_end(key)
        return track

    def _enter(self, key: tuple[str, str], track: LinkTrack) -> None:
        agents = [end[6:] for end in key if end.startswith("agent:")]
        if not agents:
            self.between[key] = track
        for agent_id in agents if len(agents) == len(key) else ():
            self._own.setdefault(agent_id, {})[key] = track

    def _leave(self, key: tuple[str, str]) -> None:
        self.between.pop(key, None)
        for end in key:
            own = self._own.get(end[6:])
            if own is not None and own.pop(key, None) is not None and not own:
                del self._own[end[6:]]

    def is_tried(self, from_site: str, to_site: str, since_us: int) -> bool:
        """Whether a link that had fallen was being tried since then: such transfers were planned as if it were well,
        and say nothing of what it keeps of its promises."""
        track = self.tracks.get((f"site:{from_site}", f"site:{to_site}"))
        return track is not None and track.fall.is_tried(since_us)

    def judge(self, from_site: str, to_site: str, planned_us: int, took_us: int, now_us: int) -> TransferLearned:
        """Compare a transfer with what was planned of it, by the factor that was in force. What takes longer than the
        link's lower decile says meets something that nobody measures; what takes less is the decile's prudence."""
        factor_milli, samples = self.factors.get((from_site, to_site), (1000, 0))
        ratio_milli = min(FACTOR_MILLI_MAX, took_us * 1000 // max(1, planned_us))
        share_milli = max(FACTOR_STEP_MILLI, 1000 // (samples + 1 + FACTOR_PRIOR))
        target_milli = factor_milli * ratio_milli // 1000
        factor_milli += (target_milli - factor_milli) * share_milli // 1000
        return TransferLearned(
            at_us=now_us,
            from_site=from_site,
            to_site=to_site,
            factor_milli=min(FACTOR_MILLI_MAX, max(1000, factor_milli)),
            samples=samples + 1,
        )

    def learn_factor(self, fact: TransferLearned) -> None:
        self.factors.pop((fact.from_site, fact.to_site), None)
        self.factors[fact.from_site, fact.to_site] = fact.factor_milli, fact.samples
        if len(self.factors) > FACTORS_MAX:
            del self.factors[next(iter(self.factors))]
        self._version += 1

    def keep(self, fact: ForecastKept) -> None:
        """Of another build's layout nothing can be read: such a link is learned anew."""
        self.kept.pop((fact.from_site, fact.to_site), None)
        if fact.state.is_known():
            self.kept[fact.from_site, fact.to_site] = fact.state
        if len(self.kept) > KEPT_MAX:
            del self.kept[next(iter(self.kept))]

    def to_keep(self, now_us: int) -> list[ForecastKept]:
        """A few forecasters that have learned enough since they were last written, those that learned most first."""
        found: list[tuple[int, str, str, Forecaster]] = []
        for track in self.between.values():
            if track.forecaster is None or not track.is_of_sites():
                continue
            ends = track.from_id[5:], track.to_id[5:]
            known = self.kept.get(ends)
            learned = track.forecaster.samples - (known.samples() if known is not None else 0)
            if learned >= KEPT_SAMPLES and track.forecast() is not None:
                found.append((-learned, *ends, track.forecaster))
        found.sort(key=lambda each: each[:3])
        return [
            ForecastKept(at_us=now_us, from_site=from_site, to_site=to_site, state=forecaster.state())
            for _, from_site, to_site, forecaster in found[:KEPT_AT_ONCE]
        ]

    def ask(self, asked: dict[str, tuple[int, int]]) -> None:
        """By site, the least and the most bytes of what pending work may fetch from there: links from those sites are
        forecast over what that takes."""
        if asked != self._asked:
            self._asked = asked
            self._version += 1

    # --- questions ---------------------------------------------------------------------------------------------------

    def links(self, now_us: int) -> tuple[Link, ...]:
        """Every site's estimate, and agents' own where they differ, sorted by ends. Cached for a second: what the core
        sees depends on when it last asked, so who asks from outside asks `links_told`."""
        return self._fresh(self._all, self.tracks, now_us)

    def links_told(self, now_us: int) -> tuple[Link, ...]:
        """The same for people and their dashboards: no recording has these questions, so they change nothing that a
        round sees. The core's own answer where that is fresh, else one cached apart."""
        return self._fresh(self._all if self._is_fresh(self._all, now_us) else self._told, self.tracks, now_us)

    def links_near(self, agent_ids: Iterable[str], now_us: int) -> tuple[Link, ...]:
        """The same without the own ways of other agents than these, and without those to the master, over which no data
        comes: what a round needs that brings data from few of many agents. Cost O(sites² + what these have told)."""
        of_sites = self._fresh(self._of_sites, self.between, now_us)
        own: dict[tuple[str, str], LinkTrack] = {}
        for agent_id in agent_ids:
            own |= self._own.get(agent_id, {})
        return _sorted((*of_sites, *self._make(own, now_us))) if own else of_sites

    def _fresh(self, made: "_Made", tracks: Mapping[tuple[str, str], LinkTrack], now_us: int) -> tuple[Link, ...]:
        if not self._is_fresh(made, now_us):
            made.links, made.at_us, made.version = _sorted(self._make(tracks, now_us)), now_us, self._version
        return made.links

    def _is_fresh(self, made: "_Made", now_us: int) -> bool:
        is_newest = made.version == self._version or now_us == made.at_us
        return is_newest and now_us - made.at_us < self.REFRESH_US

    def _make(self, tracks: Mapping[tuple[str, str], LinkTrack], now_us: int) -> list[Link]:
        """Estimates only of the links told: most agents' own are like their sites', and cost no forecast."""
        of_sites: dict[tuple[str, str], Measured] = {}
        kept: list[Link] = []
        for key, track in tracks.items():
            if key[0].startswith("agent:") or key[1].startswith("agent:"):
                ends = (self._site_end(key[0]), self._site_end(key[1]))
                sites = self.tracks.get(ends)
                if sites is not None:
                    if ends not in of_sites:
                        of_sites[ends] = sites.measured()
                    if track.disputed_bps() is None and not differs(track, sites, of_sites[ends]):
                        continue
            asked_bytes = self._asked.get(self._site_end(key[0])[5:])
            kept.append(self._corrected(track.estimate(now_us, self._half_life_us, asked_bytes), now_us))
        return kept

    def _corrected(self, link: Link, now_us: int) -> Link:
        """The rate to plan with, by what transfers took so far, as far as that still holds."""
        ends = self._site_end(link.from_id), self._site_end(link.to_id)
        factor_milli, _ = self.factors.get((ends[0][5:], ends[1][5:]), (1000, 0))
        if (sites := self.tracks.get(ends)) is not None:
            factor_milli = 1000 + (factor_milli - 1000) * sites.fall.holds_ppm(now_us) // PPM
        if factor_milli == 1000 or link.bandwidth_bps is None:
            return link
        return msgspec.structs.replace(
            link,
            bandwidth_bps=link.bandwidth_bps * 1000 // factor_milli,
            bandwidth_over=tuple((horizon_us, bps * 1000 // factor_milli) for horizon_us, bps in link.bandwidth_over),
        )

    def _site_end(self, end: str) -> str:
        if not end.startswith("agent:"):
            return end
        entry = self._agents.get(end.removeprefix("agent:"))
        return f"site:{entry.site}" if entry is not None else ""

    def transfer_bps(self, from_agent: str, to_agent: str, n_bytes: int, now_us: int) -> int | None:
        """What a transfer of so many bytes between two agents is planned with, by their own link or else their
        sites'."""
        own = self.tracks.get((f"agent:{from_agent}", f"agent:{to_agent}"))
        sites = self.tracks.get((self._site_end(f"agent:{from_agent}"), self._site_end(f"agent:{to_agent}")))
        if own is not None and (sites is None or own.learned_us >= sites.step_us):
            own_bps = own.transfer_bps(n_bytes, now_us)
            if own_bps is not None:
                return min(own_bps, own.disputed_bps() or own_bps)
        return sites.transfer_bps(n_bytes, now_us) if sites is not None else None

    def rtt_us(self, from_id: str, to_id: str) -> int | None:
        """The round trip between two ends, as measured in either direction."""
        for ends in ((from_id, to_id), (to_id, from_id)):
            track = self.tracks.get(ends)
            if track is not None and track.rtt:
                return quantile(track.rtt, 2)
        return None

    def passive_us(self, from_site: str, to_site: str) -> int:
        """When real bytes last measured this link between sites; far in the past for never."""
        track = self.tracks.get((f"site:{from_site}", f"site:{to_site}"))
        return track.passive_us if track is not None else -(2**62)
