import time, sys
from tests.processes import run_workers
import torch, torch.distributed as dist, numpy as np
def f(rank, n):
    from amoeba_sglang.transport import HostGroup, GlooGroup
    g = HostGroup.create(dist.group.WORLD)
    out=[]
    def bench(name, fn, blocks=15, ops=20):
        ts=[]
        for _ in range(3): fn()
        for _ in range(blocks):
            g.barrier(); t=time.perf_counter()
            for _ in range(ops): fn()
            ts.append((time.perf_counter()-t)/ops*1e6)
        out.append((name, round(np.median(ts),1), round(min(ts),1), round(max(ts),1)))
    for r in (8,64,256,2048):
        for dt in (torch.float32, torch.bfloat16):
            x=torch.zeros(r,576,dtype=dt); bench(f"ar {r} {dt}", lambda: g.all_reduce(x))
    for k in (50,5000):
        a=np.arange(k); bench(f"ex {k}", lambda: g.exchange(a))
    bench("barrier", g.barrier)
    x=torch.zeros(8,576)
    bench("rows", lambda: g.all_gather_rows(x,[8]*n))
    bench("gather", lambda: g.all_gather(x))
    return out
if __name__=="__main__":
    for n in map(int, sys.argv[1:]):
        for l in run_workers(n,f)[0]: print(n,*l)
