"""Importers of published sets: on rows made by hand, with units and skips exactly; on the real files where they are."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from federation.errors import ConfigError
from scenarios.format import load_scenario
from scenarios.runs import Case, run_case
from scenarios.trace_cli import app
from scenarios.traces.catalog import NAMES, read_set, set_of
from scenarios.traces.folder import SOURCES, Traces
from scenarios.traces.jobs import Row, read_imported
from tests.scenario_world import SMALL, written

REAL = Path(__file__).parents[1].parent / "shared" / "traces"
real = pytest.mark.skipif(not REAL.is_dir(), reason="published traces are not shipped")


def put(folder: Path, name: str, file: str, text: str) -> Path:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / file).write_text(text)
    return folder


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_openb_pods_keep_their_units_and_rows_without_a_run_are_told(tmp_path: Path) -> None:
    head = (
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time"
    )
    rows = [
        "a,6000,512,1,1000,V100M16,LS,Running,100,160,101",
        "e,500,256,1,250,,LS,Running,95,105,101",
        "b,1000,256,2,1000,V100M16|V100M32,LS,Running,90,120,101",
        "c,1000,256,0,0,,LS,Running,90,90,101",
        "d,1000,256,0,0,,LS,Running,90,,101",
    ]
    put(tmp_path, "openb", "openb_pod_list_default.csv", "\n".join([head, *rows]) + "\n")
    found = read_set("openb.jobs", Traces(tmp_path), {})
    assert found.text.splitlines()[-3:] == [
        "90000000,30000000,1000,268435456,2,,1,1000",  # any of two models cannot be asked for
        "95000000,10000000,500,268435456,1,,1,250",  # a share of one
        "100000000,60000000,6000,536870912,1,V100M16,1,1000",
    ]
    assert found.notes[1:] == (
        "openb.jobs: 1 row skipped: it ended before it began",
        "openb.jobs: 1 row skipped: it has no time of creation or deletion",
        "openb.jobs: in 1 rows any of several GPU models became any model at all",
    )


def test_rows_that_cannot_be_read_are_skipped_and_told(tmp_path: Path) -> None:
    head = "timestamp,duration,num_gpus,gpu_time,cluster"
    good = "2017-10-09 07:01:55,66.5,1,1,x"
    damaged = ["2017-10-09 07:01:55,66.5,one,1,x", "yesterday,66.5,1,1,x", "2017-10-09 07:01:55,1/0,1,1,x", "2017"]
    put(tmp_path, "pollux", "philly.csv", "\n".join([head, good, *damaged]) + "\n")
    found = read_set("philly.jobs", Traces(tmp_path), {})
    assert found.facts["jobs"] == "1"
    assert found.notes[1:] == ("philly.jobs: 4 rows skipped: it cannot be read",)
    put(tmp_path, "pollux", "philly.csv", "when,duration,num_gpus\n")
    with pytest.raises(ConfigError, match=r"philly\.csv has no column timestamp: it is not the published file"):
        read_set("philly.jobs", Traces(tmp_path), {})


def test_a_link_that_follows_a_phone_says_whose_rates_they_are(tmp_path: Path) -> None:
    """Read from the set, or from what was imported: the same rates with the same notes, past the file's folder."""
    put(tmp_path, "mobile_5g", "drive.csv", "DL_bitrate,UL_bitrate\n8000,1\n-,1\n4000,1\n")
    command = ["import", "mobile_5g", str(tmp_path / "rates.csv"), "--traces", str(tmp_path), "--set", "file=drive.csv"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    told = []
    for file in ("drive.csv", "./rates.csv"):
        link = f"{{between: [plant, rack], rtt: 20ms, bandwidth: 1Mbit, varies: {{mobile_5g: {file}, device: plant}}}}"
        old = "{between: [plant, rack], rtt: 20ms, bandwidth: 100Mbit}"
        scenario = SMALL.replace(old, link.replace("device: plant", "device: plant, every: 1s"))
        world = load_scenario(written(tmp_path, scenario), traces=tmp_path).world
        down = [each.spec.bandwidth_bps for each in world.variations if each.to_site == "plant"]
        assert down[:3] == [8_000_000, 4_000_000, 8_000_000]
        told.append(world.notes)
    assert told[0] == told[1]
    assert told[0][0].endswith("licence GPL-3.0") and told[0][-1] == "mobile_5g: 1 row skipped: it has no rate"


@pytest.mark.parametrize(("limit", "skip"), [(2, 1), (9, 0)])
def test_rows_that_a_file_leaves_out_are_told_too(tmp_path: Path, limit: int, skip: int) -> None:
    rows = "".join(f"{number},{number},Other,10,1,1,2.0\n" for number in range(4))
    head = "job_id,arrival_s,job_type,total_steps,scale_factor,priority,isolated_steps_per_s_v100\n"
    put(tmp_path, "gavel", "small_test.csv", head + rows)
    generate = SMALL.index("  generate:")
    trace = f"  traces: [{{file: gavel.small, limit: {limit}, skip: {skip}}}]\n"
    world = load_scenario(written(tmp_path, SMALL[:generate] + trace), traces=tmp_path).world
    told = [note for note in world.notes if "skipped" in note]
    assert len(world.arrivals) == min(limit, 4 - skip)
    assert told == [
        *([f"gavel.small: {skip} row{'s' * (skip > 1)} skipped: the file skips them"] if skip else []),
        *(["gavel.small: 1 row skipped: past the limit, or the end of the run"] if limit == 2 else []),
    ]


def test_large_training_jobs_become_gangs_of_machines(tmp_path: Path) -> None:
    text = (
        "timestamp,duration,num_gpus,gpu_time,cluster\n2017-10-09 07:01:55,66.5,16,1,x\n2017-10-09 07:01:50,1,0,1,x\n"
    )
    put(tmp_path, "pollux", "philly.csv", text)
    found = read_set("philly.jobs", Traces(tmp_path), {"gpus_per_task": "4"})
    assert found.text.splitlines()[-1].endswith(",66500000,,,4,,4,1000")
    assert found.facts["skipped"] == "1"


def test_gavels_steps_become_time_by_the_measured_rate(tmp_path: Path) -> None:
    head = "job_id,arrival_s,job_type,total_steps,scale_factor,priority,isolated_steps_per_s_v100"
    put(tmp_path, "gavel", "small_test.csv", f"{head}\n0,2.5,Transformer,300,2,1,2.0\n1,3,Other,10,1,1,\n")
    found = read_set("gavel.small", Traces(tmp_path), {})
    assert found.text.splitlines()[-1] == "2500000,150000000,,,2,,1,1000"
    assert found.notes[-1] == "gavel.small: 1 row skipped: it was not measured on a V100"


def test_deeprms_steps_are_seconds_and_its_units_cores_and_gibibytes(tmp_path: Path) -> None:
    drawn = {"len": [[0, 3], [2, 0]], "size": [[[0, 0], [7, 1]], [[1, 8], [0, 0]]]}
    put(tmp_path, "deeprm", "seq_rate0.3.json", json.dumps(drawn))
    found = read_set("deeprm.jobs", Traces(tmp_path), {"rate": "0.3", "sequence": "1"})
    assert found.text.splitlines()[-1] == f"0,2000000,1000,{8 * 2**30},0,,1,1000"


def test_azures_tokens_become_time(tmp_path: Path) -> None:
    head = "TIMESTAMP,ContextTokens,GeneratedTokens"
    text = f"{head}\n2023-11-16 18:15:46.6805900,100,10\n2023-11-16 18:15:50.9951690,0,0\n"
    put(tmp_path, "azure_llm", "AzureLLMInferenceTrace_conv.csv", text)
    found = read_set("azure_llm.requests", Traces(tmp_path), {"per_context_token": "1ms", "per_generated_token": "2ms"})
    assert found.text.splitlines()[-1] == "1700158546680590,120000,,,0,,1,1000"
    assert found.notes[-1] == "azure_llm.requests: 1 row skipped: it has no tokens"


def test_hosts_hang_under_the_switches_of_the_real_wiring(tmp_path: Path) -> None:
    put(tmp_path, "lingjun", "topo.csv", "ip,DSW,PSW,ASW\nx,G6,P1,S1\ny,G6,P1,S1\nz,G6,P1,S2\nw,G6,P2,S1\n")
    scenario = """
schema: offerflow/scenario/v1
name: wired
purpose: four hosts
seed: 1
duration: 1m
topology:
  master: cluster
  from: {lingjun: {bandwidth: [1Gbit, 2Gbit, 3Gbit], hosts: 3, agents: {host: {cpu: 1, memory: 1GiB}}}}
workload: {}
"""
    world = load_scenario(written(tmp_path, scenario), traces=tmp_path).world
    ways = {spec.agent_id: spec.access for spec in world.agents}
    assert ways["host-1"][1:] == ways["host-2"][1:] != ways["host-3"][1:]
    assert ways["host-1"][2] == ways["host-3"][2]
    rates = {name: outward.bandwidth_bps for name, outward, _ in world.access}
    assert [rates[name] for name in ways["host-3"]] == [3 * 10**9, 2 * 10**9, 10**9]
    assert any("1 row skipped" in note for note in world.notes)


TIMES = """\
src_region,src_tier,dst_region,dst_tier,avg_rtt
aws:a,PREMIUM,gcp:b,PREMIUM,12.5
aws:a,PREMIUM,gcp:b,STANDARD,10.5
aws:a,PREMIUM,gcp:b,PREMIUM,99.5
aws:a,PREMIUM,aws:c,PREMIUM,
"""
RATES = """\
src_region,src_tier,dst_region,dst_tier,success,throughput_received
aws:a,PREMIUM,gcp:b,PREMIUM,True,20000000
aws:a,PREMIUM,gcp:b,PREMIUM,True,10000000
aws:a,PREMIUM,gcp:b,PREMIUM,False,90000000
aws:a,PREMIUM,gcp:b,STANDARD,True,80000000
gcp:b,PREMIUM,aws:a,PREMIUM,True,4e6
aws:a,PREMIUM,aws:a,PREMIUM,True,9e9
"""


def test_regions_have_measured_links_and_listed_prices(tmp_path: Path) -> None:
    put(tmp_path, "skyplane", "latency.csv", TIMES)
    put(tmp_path, "skyplane", "throughput.csv", RATES)
    put(tmp_path, "skyplane", "cost_all.csv", "src,dest,cost\naws:a,gcp:b,0.09\n")
    scenario = """
schema: offerflow/scenario/v1
name: clouds
purpose: two regions
seed: 1
duration: 20m
topology:
  master: aws-a
  from: {skyplane: {regions: ["aws:a", "gcp:b"], share: 50%, agents: {vm: {cpu: 1, memory: 1GiB}}}}
workload:
  generate:
    - role: r
      at: aws-a
      arrivals: {every: 20s}
      limit: 1
      task: {run: 1s, reads: {size: 100MB}, where: {site: gcp-b}}
expect: {slo: [egress > 0.009, egress < 0.0091, tasks.finished == 1]}
"""
    path = written(tmp_path, scenario)
    world = load_scenario(path, traces=tmp_path).world
    assert {(a, b): (spec.rtt_us, spec.bandwidth_bps) for a, b, spec in world.links} == {
        ("aws-a", "gcp-b"): (12_500, 10_000_000),
        ("gcp-b", "aws-a"): (12_500, 2_000_000),
    }
    assert world.egress == (("aws-a", "gcp-b", 90_000),)
    assert world.notes[1:] == (
        "skyplane: 1 row skipped: latency.csv: by another network tier than the premium ones",
        "skyplane: 1 row skipped: latency.csv: measured more than once; of each pair the least round trip stands",
        "skyplane: 1 row skipped: latency.csv: of a region that is not among these",
        "skyplane: 1 row skipped: throughput.csv: measured more than once; of each pair the best throughput stands",
        "skyplane: 1 row skipped: throughput.csv: the measurement failed",
        "skyplane: 1 row skipped: throughput.csv: by another network tier than the premium ones",
        "skyplane: 1 row skipped: throughput.csv: within one region",
        "skyplane: 1 ways between regions have no listed price: carried for nothing",
    )
    with pytest.raises(ConfigError, match=r'from or to "gcp:bb" among these \(did you mean "gcp:b"'):
        load_scenario(written(tmp_path, scenario.replace("gcp:b", "gcp:bb"), "slip.yaml"), traces=tmp_path)
    result = run_case(Case(path=str(path), policy="fifo", traces=str(tmp_path)))
    assert [verdict for verdict in result.verdicts if not verdict.ok] == []  # 0.1 GB at 0.09 dollars


def test_what_is_missing_is_named_with_its_source_and_licence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lingjun-dataset-2023, licence Apache-2\.0"):
        read_set("lingjun", Traces(tmp_path), {})
    with pytest.raises(ConfigError, match=r"known are openb\.jobs"):
        read_set("nothing", Traces(tmp_path), {})


def test_an_import_of_before_there_were_shares_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_text("at_us,run_us,cpu_milli,memory_bytes,gpus,model,n_tasks\n5,6,,,1,t4,1\n")
    assert read_imported(path).rows == (Row(at_us=5, run_us=6, gpus=1, model="t4"),)


def test_an_import_is_read_by_a_scenario_with_its_notes(tmp_path: Path) -> None:
    text = "name,time,application,num_replicas,batch_size\na,5,cifar10,2,64\nb,7,cifar10,1,64\nc,8,cifar10,0,64\n"
    put(tmp_path, "pollux", "workload-6.csv", text)
    done = CliRunner().invoke(app, ["import", "pollux.jobs", str(tmp_path / "p.csv"), "--traces", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert [(row.at_us, row.run_us, row.gpus, row.n_tasks) for row in read_imported(tmp_path / "p.csv").rows] == [
        (5_000_000, None, 1, 2), (7_000_000, None, 1, 1),
    ]  # fmt: skip
    generate = SMALL.index("  generate:")
    scenario = SMALL[:generate] + "  traces: [{file: p.csv, role: vision, task: {run: 3s}}]\n"
    world = load_scenario(written(tmp_path, scenario)).world
    assert [arrival.at_us for arrival in world.arrivals] == [0, 2_000_000]
    assert world.arrivals[0].job.tasks[0].gang and world.arrivals[0].job.tasks[0].simulated_run_us == 3_000_000
    assert "pollux.jobs: 1 row skipped: it has no replica" in world.notes
    (tmp_path / "p.csv").write_text("something,else\n")
    with pytest.raises(ConfigError, match="no trace that"):
        load_scenario(tmp_path / "small.yaml")


# --- the real files --------------------------------------------------------------------------------------------------

ROWS = {  # rows in the set's index, less what is skipped
    "openb.jobs": ("jobs", 8_151), "azure_llm.requests": ("jobs", 19_366), "philly.jobs": ("jobs", 82_247),
    "pollux.jobs": ("jobs", 160), "gavel.jobs": ("jobs", 96), "gavel.makespan": ("jobs", 100),
    "gavel.small": ("jobs", 20), "deeprm.jobs": ("jobs", 35), "skyplane": ("sites", 60), "planetlab": ("sites", 50),
    "eua": ("users", 816), "openb": ("agents", 1_213), "lingjun": ("agents", 847), "mobile_5g": ("seconds", 3_574),
}  # fmt: skip


@real
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_real_set_is_read_whole_and_says_its_licence(name: str) -> None:
    found = read_set(name, Traces(REAL), {})
    what, count = ROWS[name]
    assert found.facts[what] == str(count)
    assert SOURCES[set_of(name)].licence in found.notes[0]


@real
def test_an_imported_network_is_a_file_to_include(tmp_path: Path) -> None:
    options = ["--traces", str(REAL), "--set", "regions=aws:us-east-1,gcp:us-east1-b"]
    done = CliRunner().invoke(app, ["import", "skyplane", str(tmp_path / "net.yaml"), *options])
    assert done.exit_code == 0, done.output
    scenario = """
schema: offerflow/scenario/v1
name: included
purpose: agents of ours at measured regions
seed: 1
duration: 1m
include: net.yaml
topology:
  master: aws-us-east-1
  sites:
    aws-us-east-1: {agents: {a: {cpu: 1, memory: 1GiB}}}
    gcp-us-east1-b: {agents: {b: {cpu: 1, memory: 1GiB}}}
workload: {}
"""
    world = load_scenario(written(tmp_path, scenario)).world
    assert {(a, b) for a, b, _ in world.links} >= {("aws-us-east-1", "gcp-us-east1-b")}
    assert ("aws-us-east-1", "gcp-us-east1-b", 90_000) in world.egress
    assert {spec.tier for spec in world.agents} == {"cloud"}
    assert world.notes[0].endswith("licence Apache-2.0")  # The file that is included brings it along.


@real
def test_imported_wiring_is_that_of_the_set(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["import", "lingjun", str(tmp_path / "net.yaml"), "--traces", str(REAL)])
    assert done.exit_code == 0, done.output
    head = "schema: offerflow/scenario/v1\nname: wired\npurpose: hosts of ours on real wiring\nseed: 1\nduration: 1m\n"
    sites = "{cluster: {agents: {host: {count: 847, cpu: 1, memory: 1GiB}}}}"
    own = f"include: net.yaml\ntopology: {{master: cluster, sites: {sites}}}\nworkload: {{}}\n"
    imported = load_scenario(written(tmp_path, head + own)).world
    rates = "bandwidth: [1.6Tbit, 800Gbit, 200Gbit]"
    hosts = "agents: {host: {cpu: 1, memory: 1GiB}}"
    direct = f"topology: {{master: cluster, from: {{lingjun: {{{rates}, {hosts}}}}}}}\nworkload: {{}}\n"
    world = load_scenario(written(tmp_path, head + direct), traces=REAL).world
    assert [spec.access for spec in imported.agents] == [spec.access for spec in world.agents]
    assert imported.access == world.access


@real
def test_a_scenario_that_joins_sets_says_so() -> None:
    folder = Path(__file__).parents[1] / "scenarios"
    joined = load_scenario(folder / "pulling-apart.yaml", traces=REAL).world
    assert joined.notes[-1] == "real inputs, synthetic pairing"
    assert {note.partition(":")[0] for note in joined.notes[:-1]} == {"skyplane", "mobile_5g"}
    single = load_scenario(folder / "mobile-edge.yaml", traces=REAL).world
    assert "GPL-3.0" in single.notes[0] and single.notes[-1] != joined.notes[-1]
