"""Requests to a served model, and probes of both arms of a rollout."""
