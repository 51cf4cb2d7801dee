"""Recordings of a real vLLM server: a plug-in writes them, `read` reads them.

`plugin` is loaded inside vLLM and imports nothing but the standard library and msgspec; importing
this package must stay free of cost.
"""
