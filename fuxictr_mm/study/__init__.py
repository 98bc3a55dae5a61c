"""Many runs of one experiment: seeds, ablations and sweeps."""
