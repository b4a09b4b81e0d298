"""Answering over HTTP. Imports runs and export."""
