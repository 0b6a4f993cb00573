"""The upstream delta: a series of patches, and the tool that puts it on an SGLang and off again.

The patches in `patches/sglang-<version>/` change files below `python/sglang/` of upstream, so
`git am` and `git apply` take them in an upstream checkout. This tool does the same, there and to an
installed package:

    python -m amoeba_sglang.patch apply|revert|status|check [--target DIR]

`manifest.json` beside the patches says what every touched file hashes to before and after all of
them (`tools.patch_manifest` makes it). The state of a target is read from that alone:
no stamp or journal is kept. Files are replaced one by one, each atomically, so a crash leaves some
pristine and some patched; `status` then says `partial`, and either `apply` or `revert` mends it. A
file with any other content is `modified` and is never written.

Nothing here imports sglang or torch, which takes seconds; only `apply` and `revert` need git.
"""
