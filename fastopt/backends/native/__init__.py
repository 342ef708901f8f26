"""The native backend."""
