"""What is said of versions: signature, model card, two of them side by side."""
