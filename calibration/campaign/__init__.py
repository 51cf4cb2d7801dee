"""Measuring a server of one's own: what is run, how it is recorded, fitted and judged.

python -m calibration.campaign --model MODEL -o DIR      on a machine with vLLM and its GPU
python -m calibration.campaign --cpu -o DIR              anywhere: CPU vLLM, a tiny random model
"""
