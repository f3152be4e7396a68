"""Costs of stages before they run: tokens, time, memory and disk, as ranges.

A stage file says what its work is (`cost(params, run, inputs) -> Cost`, in the words of `work`);
`fields` names what is read of parameters and run settings, `models` knows sizes from a config,
`rates` how fast this machine does the work, `memory` what has to fit where, `estimate` walks a
manifest. Nothing here enters a key or an id, and all of it works without torch.
"""
