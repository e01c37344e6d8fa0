"""Scenarios of a replay: each a policy with its own registry, log and ledger."""
