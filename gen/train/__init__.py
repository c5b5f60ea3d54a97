"""Training of the networks that the demo and the benchmarks use."""
