"""Answers to multiple-choice questions about videos, with all or with few of their patches seen.

questions -> answering (journal, letters) -> report (intervals) -> tables, plots.
"""
