"""From raw web pages to an aligned reasoning model, on the Hugging Face stack."""

__version__ = "0.1.0"
