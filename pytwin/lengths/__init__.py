"""Joint laws of prompt and output lengths, shipped as tables of counted token pairs.

A table counts how often a (prompt_tokens, output_tokens) pair occurs among the first two turns of
ShareGPT V3 conversations under one tokenizer, after the filter of vLLM's serving benchmark. The two
lengths are negatively correlated (Pearson -0.27), and only the joint law explains the KV memory
that running requests hold: independent draws would hold 20 % more. calibration/build_lengths.py
makes the tables; source, filter and pool means are in the metadata of each file.
`pytwin.catalog.load_lengths` reads them, `pytwin.workload.ShareGpt` draws from them.
"""
