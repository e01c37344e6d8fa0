"""From signals to decisions: trigger, wait, train, gate, promote or refuse; the ledger."""
