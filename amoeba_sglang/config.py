"""The frozen configuration that every process of a server shares."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amoeba_sglang.control.layout.slots import MOST_TOKENS, DegreeChain
from amoeba_sglang.errors import ConfigError

if TYPE_CHECKING:
    from amoeba_sglang.control.device.emulation import Emulation
    from amoeba_sglang.control.layout.expert_order import ExpertLoads
    from amoeba_sglang.control.policy.throughput import ThroughputTable

MOST_SAMPLES = 4096
# Of a host, and of a GPU.
MAX_PAGE_SIZE_KIB, MAX_GPU_PAGE_SIZE_KIB = 2 << 10, 32 << 10
# Of vm.max_map_count for the pages of a worker; the rest is for libraries, threads and malloc.
MAPPING_SHARE = 0.8


@dataclass(frozen=True)
class GpuChoice:
    """GPUs, or what stands for them: their kind, as in "sm90", SGLang's name of the attention that
    they compute with, and whether all workers share the first one."""

    kind: str
    attention: str
    shared: bool = False


@dataclass(frozen=True)
class AmoebaConfig:
    """One server. Travels to every process as `server_args._amoeba`.

    group_size N: workers of a group, the highest degree; groups M. degrees: the divisor chain 1..N.
    layers: decoder layers of the model; mlp_elements: as in ModelHeads. layers_per_step: None
    chooses by measurement, 0 means all. page_size_kib: page of weights and KV; staging_mib: staging
    buffer of a worker; both in binary units. max_n: samples of one prompt. Times in seconds.
    run_directory: where the sockets are, closed to other users. freeze_timeout_s: how long a
    process may be stopped; watchdog_timeout_s: how long it may make no progress, SGLang's
    --watchdog-timeout. dilation: real seconds of a second of the server's clock. emulation: what
    its workers pretend to be, if anything. gpu: what its workers compute on, unless that is the
    host. throughput_table: a saved one, from throughput_file or still to be measured and written
    there; expert_loads likewise, of expert_file, which is written while serving.
    """

    group_size: int
    groups: int
    degrees: tuple[int, ...]
    layers: int
    mlp_elements: int
    run_directory: str
    policy: str = "amoeba"
    initial_degree: int = 1
    layers_per_step: int | None = None
    transport: str = "peer"
    page_size_kib: int = 64
    staging_mib: int = 8
    prepare_timeout_s: float = 20.0
    max_n: int = 128
    freeze_timeout_s: float = 8.0
    watchdog_timeout_s: float = 300.0
    dilation: float = 1.0
    emulation: Emulation | None = None
    gpu: GpuChoice | None = None
    throughput_table: ThroughputTable | None = None
    throughput_file: str | None = None
    expert_loads: ExpertLoads | None = None
    expert_file: str | None = None

    @property
    def shares_gpu(self) -> bool:
        """Whether all workers are on one GPU, where there is no NCCL."""
        return self.gpu is not None and self.gpu.shared

    @property
    def workers(self) -> int:
        """W = N * M, the ranks 0..W-1."""
        return self.group_size * self.groups

    @property
    def report_address(self) -> str:
        """Where workers report to the router."""
        return f"ipc://{self.run_directory}/reports"

    @property
    def rendezvous(self) -> str:
        """Of the one torch.distributed world. A file: anybody can connect to a port."""
        return f"file://{self.run_directory}/rendezvous"

    @property
    def finish_timeout_s(self) -> float:
        """Seconds of the server's clock from COMMIT, or from a move of layers, to the next sign of
        a worker: it may have a step to end and put the others off for one more, each within the
        watchdog's."""
        return 2 * self.watchdog_timeout_s / self.dilation


@dataclass(frozen=True)
class PageSizes:
    """KiB of a page of weights and KV: what a device can have; `usual` unless a flag says it."""

    least: int = os.sysconf("SC_PAGE_SIZE") >> 10
    usual: int = 64
    most: int = MAX_PAGE_SIZE_KIB


HOST_PAGES = PageSizes()


@dataclass(frozen=True)
class ModelHeads:
    """What of a model limits its degrees: attention and KV heads, decoder layers, the elements of
    the MLP and expert weights of the layer that has most, the bytes of one token's K and V in one
    layer, and the experts of a layer, 0 without."""

    attention_heads: int
    kv_heads: int
    layers: int
    mlp_elements: int
    kv_bytes: int
    experts: int = 0


def build_config(
    options: argparse.Namespace,
    *,
    group_size: int,
    groups: int,
    heads: ModelHeads,
    kv_page: int,
    run_directory: str,
    dilation: float = 1.0,
    emulation: Emulation | None = None,
    throughput_table: ThroughputTable | None = None,
    expert_loads: ExpertLoads | None = None,
    watchdog_timeout_s: float = 300.0,
    gpu: GpuChoice | None = None,
    pages: PageSizes = HOST_PAGES,
) -> AmoebaConfig:
    """Check the flags against each other and the model.

    `kv_page`: tokens of a KV page, SGLang's --page-size; `pages`: of its device. Raises ConfigError
    with one line that names the flag, the number and the limit.
    """
    _require(group_size >= 2, f"--tp-size {group_size}: Amoeba needs a group of at least 2 workers")
    _require(groups >= 1, f"--dp-size {groups}: at least 1 group is needed")
    _check_heads(group_size, heads)
    _check_expert_loads(options.amoeba_expert_loads, expert_loads, heads)
    degrees = _choose_degrees(options.amoeba_degrees, group_size)
    initial, timeout = options.amoeba_initial_degree, options.amoeba_prepare_timeout_s
    _require(
        initial in degrees,
        f"--amoeba-initial-degree {initial}: not one of the degrees {','.join(map(str, degrees))}",
    )
    _check_kv_page(options, kv_page, heads.kv_bytes)
    _require(timeout > 0, f"--amoeba-prepare-timeout-s {timeout:g}: must be positive")
    max_n = options.amoeba_max_n
    _require(1 <= max_n <= MOST_SAMPLES, f"--amoeba-max-n {max_n}: not from 1 to {MOST_SAMPLES}")
    _require(watchdog_timeout_s > 0, f"--watchdog-timeout {watchdog_timeout_s:g}: must be positive")
    return AmoebaConfig(
        group_size=group_size,
        groups=groups,
        degrees=degrees,
        layers=heads.layers,
        mlp_elements=heads.mlp_elements,
        run_directory=run_directory,
        policy=options.amoeba_policy,
        initial_degree=initial,
        layers_per_step=_parse_layers_per_step(options.amoeba_layers_per_step, heads.layers),
        transport=options.amoeba_transport,
        page_size_kib=_choose_page_size(options.amoeba_page_size_kib, pages),
        staging_mib=options.amoeba_staging_mib,
        prepare_timeout_s=timeout,
        max_n=max_n,
        watchdog_timeout_s=watchdog_timeout_s,
        dilation=dilation,
        emulation=emulation,
        throughput_table=throughput_table,
        throughput_file=options.amoeba_throughput_table,
        expert_loads=expert_loads,
        expert_file=options.amoeba_expert_loads,
        gpu=gpu,
    )


def _choose_page_size(given: int | None, pages: PageSizes) -> int:
    page = pages.usual if given is None else given
    _require(
        pages.least <= page <= pages.most and page & (page - 1) == 0,
        f"--amoeba-page-size-kib {page}: not a power of two from {pages.least} to {pages.most}",
    )
    return page


def _check_heads(group_size: int, heads: ModelHeads) -> None:
    counts = {
        "attention heads": heads.attention_heads,
        "KV heads": heads.kv_heads,
        "experts": heads.experts,
    }
    fitting = [
        str(size)
        for size in range(2, heads.kv_heads + 1)
        if not any(count % size for count in counts.values())
    ]
    remedy = f"take {' or '.join(fitting)}" if fitting else "no size does: it cannot be served"
    for name, count in counts.items():
        _require(
            count % group_size == 0,
            f"--tp-size {group_size}: the model has {count} {name}, which it does not divide; "
            f"{remedy}",
        )


def _check_expert_loads(file: str | None, loads: ExpertLoads | None, heads: ModelHeads) -> None:
    if file is None:
        return
    _require(
        heads.experts > 0, f"--amoeba-expert-loads {file}: the model has no experts; leave it out"
    )
    _require(
        loads is None or loads.fit(heads.layers, heads.experts),
        f"--amoeba-expert-loads {file}: of another model than one of {heads.layers} layers of "
        f"{heads.experts} experts; name another file",
    )


def _check_kv_page(options: argparse.Namespace, kv_page: int, kv_bytes: int) -> None:
    staging = options.amoeba_staging_mib
    _require(staging >= 1, f"--amoeba-staging-mib {staging}: at least 1 is needed")
    # Sending and receiving share it where workers cannot read each other's memory.
    most = (staging << 20) // (1 if options.amoeba_transport == "peer" else 2) // kv_bytes
    _require(1 <= kv_page <= MOST_TOKENS, f"--page-size {kv_page}: not from 1 to {MOST_TOKENS}")
    _require(
        kv_page <= most,
        f"--page-size {kv_page}: --amoeba-staging-mib {staging} holds {most} tokens of one layer",
    )


def _choose_degrees(text: str | None, group_size: int) -> tuple[int, ...]:
    if text is None:
        return longest_chain(group_size)
    degrees = DegreeChain.parse(text, "--amoeba-degrees").degrees
    _require(
        degrees[-1] == group_size,
        f"--amoeba-degrees {text}: the last degree is {degrees[-1]}, but --tp-size is {group_size}",
    )
    return degrees


def _parse_layers_per_step(text: str, layers: int) -> int | None:
    """`"auto"` as None, else the number of layers; ConfigError otherwise."""
    if text == "auto":
        return None
    _require(
        text.isdecimal() and int(text) <= layers,
        f"--amoeba-layers-per-step {text}: neither auto nor from 0 to the model's {layers} layers",
    )
    return int(text)


def longest_chain(group_size: int) -> tuple[int, ...]:
    """The longest divisor chain from 1 to `group_size`, by its prime factors, smallest first."""
    chain, factor = [1], 2
    while chain[-1] < group_size:
        if group_size // chain[-1] % factor:
            factor += 1
        else:
            chain.append(chain[-1] * factor)
    return tuple(chain)


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise ConfigError(message)
