"""What the demo says before it starts."""

from federation.units import about_bandwidth, about_bytes
from scenarios.demo.data import ShardFile
from scenarios.demo.stage import PLANTS, RACK


def intro(shards: list[ShardFile], core_milli: int) -> str:
    uplinks = ", ".join(f"{plant.site} {about_bandwidth(plant.uplink_bps)}" for plant in PLANTS)
    return (
        f"{len(shards)} shards of augmented handwritten digits, {about_bytes(shards[0].size_bytes)} each, at "
        f"{len(PLANTS)} plants; a rack ({RACK}) without data.\n"
        f"Emulated by the agents: uplinks ({uplinks}) and edge cores ({core_milli / 10:g} % of this machine's).\n"
        "Measured: everything else."
    )
