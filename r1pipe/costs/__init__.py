"""What a stage will cost: tokens, time, memory, disk, as ranges.

A stage file says what its work is (`cost(params, run, inputs) -> Cost`, in the words of `work`);
`models` knows sizes from a config, `rates` how fast this machine does the work, `memory` what has
to fit where, `estimate` walks a manifest, `probe` measures. Nothing here enters a key or an id, and
all but `probe` works without torch.
"""
