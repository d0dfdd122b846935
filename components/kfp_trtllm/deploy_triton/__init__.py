"""The component deploy_triton: see `component.py` for its contract."""
