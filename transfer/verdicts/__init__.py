"""Analyse a study's results: intervals, verdicts and costs; nothing here trains."""
