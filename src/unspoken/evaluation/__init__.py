"""Answers scored and counted: evaluator, records, statistics, tables. Imports runs."""
