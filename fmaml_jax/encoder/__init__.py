"""A pretrained speech encoder: CAM++, which tells speakers apart, and whose layers hear emotion.

`torch_file.py` and `weights.py` make its file once, `filterbank.py` and `campplus.py` compute.
"""
