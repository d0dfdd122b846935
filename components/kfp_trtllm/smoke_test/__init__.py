"""The component smoke_test: see `component.py` for its contract."""
