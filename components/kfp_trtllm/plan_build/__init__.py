"""The component plan_build: see `component.py` for its contract."""
