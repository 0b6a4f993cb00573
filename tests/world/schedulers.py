"""N real ElasticSchedulers in one process, over stand-ins for sockets, peers and device.

Built once for a Setting; every history then runs in a fork. What of upstream has to be told that it
is not alone: which of its contexts is the current one, at every switch of fibers; that the groups
of one rank, built by the first scheduler, serve the others; and sockets, which are lists here.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from sglang.srt import runtime_context
from sglang.srt.distributed import bootstrap

from amoeba_sglang.adapters.worker.scheduler import ElasticScheduler
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.worker.protocol import State
from amoeba_sglang.flags import make_parser
from tests.serving.audited.audit import audit
from tests.world.grammar import WorldGrammars
from tests.world.plane import WorldWeights
from tests.world.setting import Setting
from tests.world.sockets import Inbox, Outbox, Sleeper, Snapshots
from tests.world.stage import STAGE
from tests.world.surroundings import WorldSurroundings
from tests.world.watched import WatchedProtocol

MODEL = os.environ.get("AMOEBA_TEST_MODEL", ".cache/models/smollm2-135m-kv4")
# What the workers build of the model: it computes nothing.
_STUB = {
    "num_hidden_layers": 1,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 8,
    "vocab_size": 2048,
    "max_position_embeddings": 8192,
}
# Looks at its inbox so often while it finds nothing to do, at first and at most.
_SPIN_SECONDS, _LONGEST_SPIN = 1e-4, 0.02
_SPINS = 8


class WorldScheduler(ElasticScheduler):
    """A real worker; every turn of its loop takes virtual time."""

    setting: Setting
    spins = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.runtime.protocol = WatchedProtocol(self)
        runner = self.tp_worker.model_runner
        runner.weight_updater = runner.weight_exporter = WorldWeights()

    def init_ipc_channels(self, port_args: Any) -> None:
        self.rank = runtime_context.get_parallel().dp_rank
        self.inbox, outbox = Inbox(), Outbox(self.rank)
        self.ipc_channels = SimpleNamespace(
            recv_from_tokenizer=self.inbox,
            recv_from_rpc=Inbox(),
            send_to_tokenizer=outbox,
            send_to_detokenizer=outbox,
            send_metrics_from_scheduler=None,
        )
        self.recv_from_tokenizer = self.inbox
        self.load_snapshot_writer = Snapshots(self.rank)

    def init_idle_sleeper(self) -> None:
        self.idle_sleeper = Sleeper(self)

    def init_grammar_manager(self) -> None:
        super().init_grammar_manager()
        self.grammar_manager.grammar_backend = WorldGrammars()

    def ingest_requests(self, stop_at_pause: bool = False) -> list[Any]:
        fiber = STAGE.loop.current
        in_step = self.runtime.protocol.state in (State.MERGED, State.CHANGING)
        busy = self.last_batch is not None or in_step
        self.spins = 0 if busy or self.inbox.messages else self.spins + 1
        if self.spins > _SPINS:
            fiber.park("spin", min(_LONGEST_SPIN, _SPIN_SECONDS * 2 ** min(self.spins - 8, 8)))
        else:
            fiber.sleep(_SPIN_SECONDS * (1 + STAGE.play.random("turn", self.rank).random()))
        return super().ingest_requests(stop_at_pause)

    def step_with_peers(self, batch: Any, running_batch: Any) -> None:
        merged = self.runtime.degree > 1
        STAGE.play.rare.count("paused steps of merged workers", self._engine_paused and merged)
        super().step_with_peers(batch, running_batch)
        STAGE.play.checks.after_turn(self, batch, running_batch)

    def must_wait(self, running_batch: Any, last_batch: Any) -> bool:
        waits = super().must_wait(running_batch, last_batch)
        STAGE.play.rare.count("steps that wait for an order", waits)
        return waits

    def handle_generate_request(self, recv_req: Any, **kwargs: Any) -> None:
        STAGE.play.rare.see_arrival(self)
        super().handle_generate_request(recv_req, **kwargs)

    def abort_request(self, recv_req: Any) -> None:
        STAGE.play.rare.see_abort(self, recv_req.rid)
        super().abort_request(recv_req)

    def _add_request_to_queue(self, req: Any, is_retracted: bool = False) -> None:
        if is_retracted:
            STAGE.play.rare.see_retraction(self)
        super()._add_request_to_queue(req, is_retracted)

    def problems(self, *planned: Any) -> list[str]:
        """Of slot ownership."""
        return audit(self, planned)


@dataclass(frozen=True)
class Built:
    """The workers of a world, and upstream's context of each."""

    setting: Setting
    config: AmoebaConfig
    schedulers: list[WorldScheduler]
    contexts: list[Any]

    def activate(self, rank: int) -> None:
        """Make upstream's globals those of one worker."""
        context = self.contexts[rank]
        runtime_context._CONTEXT, runtime_context._PARALLEL = context, context.parallel


def build(setting: Setting) -> Built:
    """Make the workers; takes some 10 s, most of which is imports."""
    server_args, config = make_server_args(setting)
    contexts: list[Any] = []
    schedulers: list[WorldScheduler] = []
    init_first = bootstrap.init_parallel_runtime

    def init_parallel_runtime(**kwargs: Any) -> None:
        if len(contexts) == 1:
            init_first(**kwargs)
            return
        # Groups of one rank are all alike: those of the first worker serve the others too.
        present = runtime_context.get_parallel()._stamp
        first = contexts[0].parallel._stamp
        present.update({key: value for key, value in first.items() if key not in present})

    built = Built(setting, config, schedulers, contexts)
    kind = type("WorldScheduler", (WorldScheduler,), {"setting": setting})
    with patch.object(bootstrap, "init_parallel_runtime", init_parallel_runtime):
        for rank in range(config.workers):
            ranks = runtime_context.SpawnRanks(world_rank=0, dp_rank=rank, gpu_id=0)
            contexts.append(
                runtime_context.create_context(server_args, role="scheduler", ranks=ranks)
            )
            built.activate(rank)
            around = WorldSurroundings(rank, config.workers, config.watchdog_timeout_s)
            schedulers.append(kind(server_args, SimpleNamespace(nccl_port=0), around))
    return built


def make_server_args(setting: Setting) -> tuple[Any, AmoebaConfig]:
    """As the launcher does, but of a stub of the model."""
    from amoeba_sglang.adapters.launch import EXTENSION_CLASSES, parse_server_args, prepare

    stub = _STUB | {"num_hidden_layers": setting.layers}
    flags: dict[str, Any] = {
        "--model-path": MODEL,
        "--device": "cpu",
        "--dtype": "float32",
        "--tp-size": setting.workers,
        "--dp-size": setting.groups,
        "--page-size": setting.page,
        "--max-total-tokens": setting.tokens,
        "--chunked-prefill-size": setting.chunk,
        "--context-length": 8192,
        "--max-running-requests": setting.rows,
        "--schedule-conservativeness": setting.conservativeness,
        "--random-seed": 1,
        "--load-format": "dummy",
        "--json-model-override-args": json.dumps(stub),
        "--amoeba-policy": setting.policy,
        "--amoeba-layers-per-step": 1,
    }
    argv = [str(word) for pair in flags.items() for word in pair] + ["--skip-tokenizer-init"]
    if setting.priorities:
        argv.append("--enable-priority-scheduling")
    options, rest = make_parser().parse_known_args(argv)
    server_args = parse_server_args(rest)
    config = prepare(server_args, options, None, tempfile.mkdtemp(prefix="amoeba-world-"))
    server_args._one_world = False
    server_args.json_model_override_args = json.dumps(_STUB)
    server_args._extension_classes = {
        **EXTENSION_CLASSES,
        "mha_kv_pool": "tests.world.plane.WorldPool",
        "paged_allocator": "amoeba_sglang.adapters.reference.allocator.ReferenceAllocator",
    }
    return server_args, config
