"""Priors: a profile for a model and a GPU that nobody measured.

From the model's `config.json` and the GPU's data sheet come bytes, FLOPs, kernels and thread
blocks; from the measured profiles come the efficiencies with which servers turn these into time.
docs/background/priors.md says how well that predicts one measured model from the other.
"""
