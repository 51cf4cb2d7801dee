"""vLLM's own scheduler, KV-cache manager and LoRA caches, driven without a GPU or a model.

Runs as a process of its own (`python -m pytwin.conformance.reference --engine-version V`): two
versions of vLLM cannot live in one interpreter, and the import hook of `stubs` has no place in a
user's. `pytwin.conformance.client` starts it and speaks to it.
"""
