"""Implementations: device-local functions that take the place of what scopes compute, checked and made logical."""
