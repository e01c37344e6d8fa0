"""Scenarios of a replay; each is a policy with a registry, a prediction log and a ledger of its own."""
