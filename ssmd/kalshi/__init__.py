"""Kalshi: sign-in, words of the protocol, subscription plans, the session, and REST. docs/kalshi.md is the tour."""
