"""ssmd: a market-data recorder. Nothing lost, and every hole recorded."""

__version__ = "0.1.0"
