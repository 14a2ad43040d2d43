"""The same flows in SimGrid, by the system's Python (Debian: python3-simgrid): JSON in on stdin, JSON out on stdout.

Of ours nothing is imported here. `concurrent` 0: every flow begins at its time, and the answer is when each ended; else
so many are kept under way, the next beginning as one ends, and the answer is the CPU time that took. Cross-traffic of
acknowledgements is off, which the model compared with does not have.
"""

import json
import sys
import time

import simgrid


def main() -> None:
    asked = json.load(sys.stdin)
    engine = simgrid.Engine(["simgrid_flows", f"--cfg=network/model:{asked['model']}", "--cfg=network/crosstraffic:0"])
    zone = simgrid.NetZone.create_full_zone("world")
    hosts = [zone.create_host(f"host-{number}", 1e9) for number in range(asked["n_hosts"])]
    links = {}
    for name, (bandwidth, latency) in asked["links"].items():
        links[name] = zone.create_link(name, bandwidth).set_latency(latency).seal()
    for from_host, to_host, path in asked["routes"]:
        hops = [simgrid.LinkInRoute(links[name]) for name in path]
        zone.add_route(hosts[from_host].netpoint, hosts[to_host].netpoint, None, None, hops, False)
    zone.seal()
    answer = {"version": ".".join(map(str, simgrid.simgrid_version)) if hasattr(simgrid, "simgrid_version") else ""}
    driver = closed_loop if asked["concurrent"] else by_time
    simgrid.Actor.create("driver", hosts[0], driver, asked, hosts, answer)
    began = time.process_time()
    engine.run()
    answer["cpu_s"] = time.process_time() - began
    json.dump(answer, sys.stdout)


def by_time(asked, hosts, answer):
    comms = []
    for at_s, from_host, to_host, size_bytes in asked["flows"]:
        simgrid.this_actor.sleep_until(at_s)
        comms.append(simgrid.Comm.sendto_async(hosts[from_host], hosts[to_host], size_bytes))
    simgrid.Comm.wait_all(list(comms))
    answer["ended_s"] = [comm.finish_time for comm in comms]


def closed_loop(asked, hosts, answer):
    waiting = iter(asked["flows"])
    under_way = []
    for _ in range(asked["concurrent"]):
        _, from_host, to_host, size_bytes = next(waiting)
        under_way.append(simgrid.Comm.sendto_async(hosts[from_host], hosts[to_host], size_bytes))
    while under_way:
        done = simgrid.Comm.wait_any(under_way)
        try:
            _, from_host, to_host, size_bytes = next(waiting)
        except StopIteration:
            break
        under_way[done] = simgrid.Comm.sendto_async(hosts[from_host], hosts[to_host], size_bytes)
    answer["ended_s"] = []


if __name__ == "__main__":
    main()
