"""Everything for a quarter of an hour on a machine that has one GPU, no network, and nothing of ours on it.

`make gpu-pack` prepares a folder that travels with a checkout; two calls on that machine then do the work:

    python3 -m benchmarks.gpu_pack.first OUT --seconds 270      tests, a rehearsal of the runs, measurements of speed
    python3 -m benchmarks.gpu_pack.second OUT --seconds 480     six methods trained on SmolLM2-135M, evaluated, brought back

The model is too large for one call, so each call brings half of it; what the first one leaves in `--work` must still be
there for the second. See docs/speed/gpu.md.
"""
