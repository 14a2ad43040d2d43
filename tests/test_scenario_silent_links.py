"""A link that fell and that nothing measures any more is tried again, by work."""

from pathlib import Path

from scenarios.records import Records
from tests.scenario_world import played

# A phone's line is paid by the byte, so that nothing probes it within minutes. What arises on the phone takes 16 s
# there, 4 s and half a second in the cloud. For twenty seconds the line is a fiftieth of itself, and 1 MB takes 20 s.
PHONE = """
schema: offerflow/scenario/v1
name: phone
purpose: work leaves a line that fell, and comes back though nobody told that it has risen
seed: 5
duration: 8m
topology:
  master: cloud
  sites:
    street: {tier: edge, agents: {phone: {cpu: 8, memory: 4GiB, disk: 4GiB, speed: 0.25, metered: true}}}
    cloud: {tier: cloud, agents: {vm: {cpu: 16, memory: 16GiB, disk: 64GiB}}}
  links:
    - {between: [street, cloud], rtt: 40ms, bandwidth: 20Mbit}
workload:
  generate:
    - role: photos
      at: street
      arrivals: {every: 3s}
      from: 20s
      to: 7m
      task: {cpu: 1, memory: 64MiB, run: 4s, reads: {size: 1MB}}
faults:
  - {at: 2m, link: [street, cloud], set: {bandwidth: 400kbit}, for: 20s}
expect:
  slo: [tasks.open == 0, tasks.failed == 0]
"""


def test_work_goes_over_a_line_again_within_two_minutes_of_its_last_transfer(tmp_path: Path) -> None:
    tasks = Records(played(tmp_path, PHONE, "flow")).tasks.values()

    def in_cloud(from_s: int, to_s: int) -> float:
        some = [task.agent_id for task in tasks if from_s <= task.arrived_us // 1_000_000 < to_s]
        return sum(agent_id == "vm" for agent_id in some) / len(some)

    assert in_cloud(60, 115) == 1
    assert in_cloud(145, 200) == 0, "the line is well again, and nobody knows"
    assert in_cloud(260, 420) == 1, "one found out, and the others followed"
