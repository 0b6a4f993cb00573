import time, sys
from tests.processes import run_workers
import torch, torch.distributed as dist, numpy as np
def f(rank, n, yield_s, skew):
    from amoeba_sglang.transport import HostGroup, rendezvous
    rendezvous._YIELD_S = yield_s
    g = HostGroup.create(dist.group.WORLD)
    a = torch.rand(128,128)
    def compute(s):   # fixed work
        for _ in range(int(s*1e6/40)): a@a
    x=torch.zeros(8,576)
    g.barrier(); c=time.process_time(); w=time.perf_counter(); k=20 if skew>0.01 else 200
    for i in range(k):
        if rank==0: compute(skew)
        g.all_reduce(x)
    return round((time.process_time()-c)/(time.perf_counter()-w)*100,1), round((time.perf_counter()-w)/k*1e3,3)
def g_(rank, n, skew):   # all ranks compute uneven random (up to skew), many steps
    from amoeba_sglang.transport import HostGroup, rendezvous
    rendezvous._YIELD_S = skew[1]
    g = HostGroup.create(dist.group.WORLD)
    a = torch.rand(128,128); rng=np.random.default_rng(rank)
    x=torch.zeros(8,576); tot=0
    g.barrier(); c=time.process_time(); w=time.perf_counter()
    for i in range(400):
        for _ in range(int(rng.uniform(0.5,1)*skew[0]*1e6/40)): a@a
        g.all_reduce(x)
    return round((time.process_time()-c)/(time.perf_counter()-w)*100,1), round((time.perf_counter()-w)/400*1e3,3)
if __name__=="__main__":
    for n in (2,4):
      for y in (0., 1e-4, 3e-4, 1e-3):
        for skew in (0.05, 0.002): print("one late", n, "yield", y, skew, "cpu%, ms/iter", run_workers(n,f,y,skew), flush=True)
        for skew in (0.001,0.0002): print("uneven compute", n, "yield", y, skew, run_workers(n,g_,(skew,y)), flush=True)
