"""A step of an optimizer: everything between the user's call and the backend's."""
