"""What an owner of a GPU can find out about this package on it, in minutes.

`make gpu-check` runs stages of checks. So far there is one stage, `kernels`: it needs torch, triton
and cuda-bindings only, neither SGLang nor what SGLang brings. Nothing here has run on a GPU yet;
the tests run every check on a stand-in for the driver, and the kernel in Triton's interpreter.
"""
