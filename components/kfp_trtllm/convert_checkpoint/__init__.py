"""The component convert_checkpoint: see `component.py` for its contract."""
