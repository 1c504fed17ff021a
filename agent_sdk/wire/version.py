"""The version of the library, in the one place that code reads it from."""

__version__ = "0.1.0"
USER_AGENT = f"agent-sdk/{__version__}"
