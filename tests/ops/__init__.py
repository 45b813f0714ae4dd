"""Tests of ops and kernels, generated from the table in `rows`."""
