"""The CUDA plane on the REFERENCE device: SGLang on a host that pretends to have GPUs."""
