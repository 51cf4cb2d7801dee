"""Sphinx: `make docs`."""

project = "pytwin"
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {"description": "A digital twin of a vLLM server with LoRA adapters"}
exclude_patterns = ["_build"]
