"""The component roll_out_canary: see `component.py` for its contract."""
