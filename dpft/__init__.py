"""Fine-tune transformers on private text, and prove what it cost in privacy."""

__version__ = "0.1.0"

__all__ = ["__version__"]
