"""Answering over HTTP, behind OpenAI's API. Imports runs, core.engine, exporters and pages; needs the extra `serve`."""
