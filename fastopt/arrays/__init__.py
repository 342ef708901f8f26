"""Arrays and structures of arrays."""
