"""What a run left on disk, for people: the report's page, a table for the terminal, model cards."""

from pipeline.reporting.card import model_card
from pipeline.reporting.compare import compare, comparison_text
from pipeline.reporting.funnel import funnel_page
from pipeline.reporting.page import report
from pipeline.reporting.table import summary_table

__all__ = ["compare", "comparison_text", "funnel_page", "model_card", "report", "summary_table"]
