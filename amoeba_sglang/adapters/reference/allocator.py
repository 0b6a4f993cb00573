"""The allocator of a worker whose device's tables cannot be read."""

from sglang.srt.mem_cache.memory_pool import ReqToTokenPool

from amoeba_sglang.adapters.model.host_rows import HostRows
from amoeba_sglang.adapters.model.kv_allocator import ElasticAllocator


class ReferenceAllocator(ElasticAllocator):
    """Its scheduler has a table of rows beside the model's, although both are on the host."""

    def rows_of_scheduler(self, req_to_token_pool: ReqToTokenPool) -> ReqToTokenPool:
        return HostRows(req_to_token_pool)
