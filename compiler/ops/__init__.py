"""Ops: everything about one stands in its class; `registry` lists them by mnemonic."""
