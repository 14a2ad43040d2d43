"""Where the traces lie: a folder with one sub-folder a set, named by `--traces` or OFFERFLOW_TRACES."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from federation.errors import ConfigError

VARIABLE = "OFFERFLOW_TRACES"


class Source(NamedTuple):
    """A published set: where it is from, under which licence, and the files read of it."""

    name: str
    origin: str
    licence: str
    files: tuple[str, ...]


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source("openb", "github.com/hkust-adsl/kubernetes-scheduler-simulator (Alibaba GPU cluster 2023)", "Apache-2.0",
               ("openb_node_list_gpu_node.csv", "openb_pod_list_default.csv")),
        Source("azure_llm", "github.com/Azure/AzurePublicDataset", "CC-BY-4.0", ("AzureLLMInferenceTrace_conv.csv",)),
        Source("pollux", "github.com/petuum/adaptdl, osdi21-artifact; philly.csv: github.com/msr-fiddle/philly-traces",
               "Apache-2.0; CC-BY-4.0", ("philly.csv", "workload-6.csv")),
        Source("gavel", "github.com/stanford-futuredata/gavel", "MIT",
               ("phys_las.csv", "phys_makespan.csv", "small_test.csv")),
        Source("deeprm", "environment of github.com/hongzimao/deeprm", "MIT",
               ("seq_rate0.3.json", "seq_rate0.5.json", "seq_rate0.7.json")),
        Source("lingjun", "github.com/alibaba/alibaba-lingjun-dataset-2023", "Apache-2.0", ("topo.csv",)),
        Source("skyplane", "github.com/skyplane-project/skyplane (2022)", "Apache-2.0",
               ("latency.csv", "throughput.csv", "cost_all.csv")),
        Source("netlatency", "github.com/uofa-rzhu3/NetLatency-Data (PlanetLab)", "MIT",
               ("planetlab_rtt_tenths_ms_9x490x490.npz",)),
        Source("eua", "github.com/swinedge/eua-dataset (Melbourne)", "MIT",
               ("site-optus-melbCBD.csv", "users-melbcbd-generated.csv")),
        Source("mobile_5g", "github.com/uccmisl/5Gdataset", "GPL-3.0",
               ("Download__Driving__B_2020.02.13_15.02.01.csv", "Download__Driving__B_2020.02.14_07.29.00.csv")),
    )
}  # fmt: skip


class Traces:
    """Opens files of the sets. Every miss is a `ConfigError` that says where the set is to be had."""

    def __init__(self, folder: Path | None = None) -> None:
        named = os.environ.get(VARIABLE)
        self._folder = folder if folder is not None else Path(named) if named else None

    def path(self, name: str, file: str) -> Path:
        source = SOURCES[name]
        hint = f"the set {name} is published at {source.origin}, licence {source.licence}"
        if self._folder is None:
            raise ConfigError(
                f"traces are not shipped: put them in a folder and name it with --traces or {VARIABLE}; {hint}"
            )
        path = self._folder / name / file
        if not path.is_file():
            raise ConfigError(f"there is no {path}; {hint}")
        return path

    def has(self, name: str) -> bool:
        """Whether all files of the set are here."""
        folder = self._folder
        return folder is not None and all((folder / name / file).is_file() for file in SOURCES[name].files)

    def rows(self, name: str, file: str, *columns: str) -> Iterator[tuple[int, dict[str, str]]]:
        """(line, column → text) of a CSV file with a header that has these columns; "" where a row is too short."""
        path = self.path(name, file)
        try:
            with path.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream, restval="")
                missing = [column for column in columns if column not in (reader.fieldnames or ())]
                if missing:
                    raise ConfigError(f"{path} has no column {', '.join(missing)}: it is not the published file")
                yield from enumerate(reader, start=2)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{path} cannot be read: {error}") from None


def note_of(name: str) -> str:
    """What every result has to say that rests on this set."""
    source = SOURCES[name]
    return f"{name}: {source.origin}, licence {source.licence}"


def skipped_note(name: str, reasons: dict[str, int]) -> tuple[str, ...]:
    """How many rows were left out, and why."""
    return tuple(
        f"{name}: {count} row{'s' * (count != 1)} skipped: {reason}" for reason, count in reasons.items() if count
    )
